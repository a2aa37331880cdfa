#!lua flags=allow-oom
-- Add a live incarnation, or update what it shows; one that has ended stays ended.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, name, info, ttl
-- Reply    now
local inc, key = ARGV[1], node_key(ARGV[1])
call('ZCARD', LEASES)
local steady = steady_since(inc, tonumber(ARGV[4]))
if call('HEXISTS', DEAD, inc) == 0 and call('HEXISTS', requests_key(inc), 'ended') == 0 then
  call('ZADD', LEASES, digits(now + tonumber(ARGV[4])), inc)
  call('HSET', key, 'name', ARGV[2], 'info', ARGV[3], 'shown', digits(now), 'renewed', digits(now),
    'steady', steady, 'ttl', ARGV[4])
  call('HSETNX', key, 'running', '0')
end
return digits(now)
