#!lua flags=allow-oom
-- Close a shared limit for some time.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     name of the limit, microseconds from now, "1" if the limit may open earlier than before
-- Reply    1, or 0 if no kind has the limit
local limit = shared and limit_of(ARGV[1])
if not limit or not limit.kinds[1] then
  return 0
end
local closed = now + tonumber(ARGV[2])
local opens_earlier = ARGV[3] == '1' and closed < limit.closed
if opens_earlier or closed > limit.closed then
  limit.closed, limit.left = closed, nil
  call('HSET', LIMITS, 'l' .. ARGV[1], text_of_limit(limit))
end
if opens_earlier then
  wake_kinds(limit.kinds)
end
return 1
