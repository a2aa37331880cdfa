#!lua flags=no-writes
-- Read slots of the activity, until the reply is long enough.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     limit of the reply in bytes, then positions in the ring
-- Reply    the stored samples, or nil, of the first positions; at least one
local reply, size = {}, 0
for n = 2, #ARGV do
  local sample = call('HGET', ACTIVITY, ARGV[n])
  size = size + #(sample or '')
  if n > 2 and size > tonumber(ARGV[1]) then
    break
  end
  reply[n - 1] = sample
end
return reply
