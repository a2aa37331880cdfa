#!lua flags=allow-oom
-- Send hints about every change in the namespace to an incarnation, for the given duration.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, duration
-- Reply    now
call('ZREMRANGEBYSCORE', CHANGES, '-inf', now)
call('ZADD', CHANGES, digits(now + tonumber(ARGV[2])), ARGV[1])
local last = tonumber(call('ZRANGE', CHANGES, -1, -1, 'WITHSCORES')[2])
if not is_time(last) then
  call('ZREMRANGEBYSCORE', CHANGES, digits(LATEST), '+inf')
  last = now + tonumber(ARGV[2])
end
call('SET', WATCHING, 1, 'PXAT', digits(math.ceil(last / 1000)))
call('PEXPIRE', CHANGES, digits(math.ceil((last - now) / 1000) + 1000))
return digits(now)
