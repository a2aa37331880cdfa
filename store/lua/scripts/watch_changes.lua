#!lua flags=allow-oom
-- Hint every change to an incarnation for a while.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     incarnation, duration
-- Reply    now
call('ZREMRANGEBYSCORE', CHANGES, '-inf', now)
call('ZADD', CHANGES, digits(now + tonumber(ARGV[2])), ARGV[1])
local last = call('ZRANGE', CHANGES, -1, -1, 'WITHSCORES')[2]
call('SET', WATCHING, 1, 'PXAT', digits(math.ceil(tonumber(last) / 1000)))
return digits(now)
