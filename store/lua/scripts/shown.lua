#!lua flags=no-writes
-- What incarnations show of themselves, as far as it fits.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     bytes after which the reply ends, incarnations
-- Reply    per incarnation, until it ends: what it shows or nil, when it showed itself or nil
local reply, bytes_left = {}, tonumber(ARGV[1])
for n = 2, #ARGV do
  if bytes_left > 0 then
    local found = call('HMGET', node_key(ARGV[n]), 'info', 'shown')
    reply[2 * n - 3], reply[2 * n - 2] = found[1], found[2]
    bytes_left = bytes_left - (found[1] and #found[1] or 0)
  end
end
return reply
