#!lua flags=allow-oom
-- Have an incarnation hinted of every change for a while.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, for how long
-- Reply    now
call('ZREMRANGEBYSCORE', CHANGES, '-inf', now)
call('ZADD', CHANGES, digits(now + tonumber(ARGV[2])), ARGV[1])
local last = call('ZRANGE', CHANGES, -1, -1, 'WITHSCORES')[2]
call('SET', WATCHING, 1, 'PXAT', digits(math.ceil(tonumber(last) / 1000)))
return digits(now)
