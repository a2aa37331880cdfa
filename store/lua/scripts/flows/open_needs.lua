#!lua flags=no-writes
-- Count the needs that are left of instances that wait for them.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     ids
-- Reply    a number per id
local keys, reply = {}, {}
for n, id in ipairs(ARGV) do
  keys[n] = record_key(id)
end
for n, raw in ipairs(call('MGET', unpack(keys))) do
  local record = decode(raw)
  reply[n] = record and is_waiting(record) and present(record.thread.flags, JOINS) and record.thread.needs or 0
end
return reply
