#!lua flags=no-writes
-- Read the keys of instances.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     ids
-- Reply    per id: its entry as in lib/gates.lua, or ""
local reply, keys = {}, {}
for n, id in ipairs(ARGV) do
  keys[n] = record_key(id)
end
for n, raw in ipairs(gates and keys[1] and call('MGET', unpack(keys)) or {}) do
  local record = decode(raw)
  reply[n] = record and call('HGET', kind_key('g', record.kind), ARGV[n]) or ''
end
return reply
