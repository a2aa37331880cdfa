#!lua flags=allow-oom
-- Have an incarnation hinted of every change for a while.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, for how long
-- Reply    now
call('ZREMRANGEBYSCORE', CHANGES, '-inf', now)
call('ZADD', CHANGES, digits(now + tonumber(ARGV[2])), ARGV[1])
return digits(now)
