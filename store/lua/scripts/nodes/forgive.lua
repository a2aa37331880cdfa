#!lua flags=allow-oom
-- Make losses of up to 500 crashes that were charged to an incarnation: the process was marked dead, but is alive.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     the previous incarnation of the process
-- Reply    number of crashes that are left
local incarnation = ARGV[1]
local key = charged_key(incarnation)
local ids = call('SRANDMEMBER', key, 500)
local dead_entry = call('HGET', DEAD, incarnation)
if #ids > 0 then
  local keys = {}
  for n, id in ipairs(ids) do
    keys[n] = record_key(id)
  end
  for n, raw in ipairs(call('MGET', unpack(keys))) do
    local record = decode(raw)
    if record and not is_final(record.state) and record.crashes > 0 then
      record.crashes = record.crashes - 1
      record.losses = record.losses + 1
      put_string(keys[n], encode(record))
    end
  end
  write_all()
  call('SREM', key, unpack(ids))
end
if dead_entry then
  call('HSET', DEAD, incarnation, string.lower(sub(dead_entry, 1, 1)) .. sub(dead_entry, 2))
end
return call('SCARD', key)
