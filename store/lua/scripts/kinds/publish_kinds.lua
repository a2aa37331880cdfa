#!lua flags=allow-oom
-- Add kinds to the catalogue, and remove some kinds that no node published for a long time.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     how long a kind is kept, then at most 500 kinds
-- Reply    now
local stale = call('ZRANGE', CATALOGUE, '-inf', digits(now - tonumber(ARGV[1])), 'BYSCORE', 'LIMIT', 0, 500)
if #stale > 0 then
  call('ZREM', CATALOGUE, unpack(stale))
  call('HDEL', DESCRIPTORS, unpack(stale))
end
for n = 2, #ARGV do
  add_pair('ZADD', CATALOGUE, digits(now), ARGV[n])
end
write_all()
return digits(now)
