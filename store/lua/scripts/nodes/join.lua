#!lua flags=allow-oom
-- Add a live incarnation, or update its NodeInfo. A late join does not revive an incarnation that has ended. After the
-- lease has expired, the number that runs is unknown until the next renewal.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, name, info, ttl, the highest layout that the node reads
-- Reply    now
local incarnation, key = ARGV[1], node_key(ARGV[1])
call('ZCARD', LEASES)
local steady = steady_since(incarnation, tonumber(ARGV[4]))
if call('HEXISTS', DEAD, incarnation) == 0 and call('HEXISTS', requests_key(incarnation), 'ended') == 0 then
  local ends = call('ZSCORE', LEASES, incarnation)
  if not ends or tonumber(ends) < now then
    call('HSET', key, 'running', '0')
  end
  call('ZADD', LEASES, digits(now + tonumber(ARGV[4])), incarnation)
  call('HSET', key, 'name', ARGV[2], 'info', ARGV[3], 'shown', digits(now), 'renewed', digits(now),
    'steady', steady, 'ttl', ARGV[4], 'reads', ARGV[5])
end
return digits(now)
