#!lua flags=no-writes
-- Read the NodeInfo of incarnations, until the reply has the given number of bytes.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     bytes after which the reply ends, incarnations
-- Reply    per incarnation, until the reply ends: its NodeInfo or nil, the time of its NodeInfo or nil
local reply, bytes_left = {}, tonumber(ARGV[1])
for n = 2, #ARGV do
  if bytes_left > 0 then
    local found = call('HMGET', node_key(ARGV[n]), 'info', 'shown')
    reply[2 * n - 3], reply[2 * n - 2] = found[1], found[2]
    bytes_left = bytes_left - (found[1] and #found[1] or 0)
  end
end
return reply
