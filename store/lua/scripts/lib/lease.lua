-- The history of a lease has two times: `renewed`, the last renewal, and `steady`, since when each renewal came in
-- time. By the history, a late reap distinguishes a node that stopped renewing from a node that an outage kept from
-- renewing.

-- Return the new value of `steady` for a renewal that comes now: the old value, unless the last renewal is more than
-- half a ttl ago.
local function steady_since(incarnation, ttl)
  local found = call('HMGET', node_key(incarnation), 'renewed', 'steady')
  local since = now - (whole_number(found[1]) or 0)
  if since > ttl / 2 or since < 0 then
    return digits(now)
  end
  return whole_number(found[2]) and found[2] or found[1]
end

-- Cut leases that end too late to one ttl from now; look at the `max_count` leases that end last. If the server's clock
-- steps back, as in a failover to a slower host, earlier leases would outlast their ttl, even those of dead nodes.
local function shorten_future_leases(max_count)
  local leases, late = call('ZRANGE', LEASES, 0, max_count - 1, 'REV', 'WITHSCORES'), {}
  for n = 1, #leases, 2 do
    local ttl = whole_number(call('HGET', node_key(leases[n]), 'ttl')) or 0
    if ttl > 0 and tonumber(leases[n + 1]) > now + ttl then
      late[#late + 1], late[#late + 2] = leases[n], ttl
    end
  end
  for n = 1, #late, 2 do
    call('ZADD', LEASES, digits(now + late[n + 1]), late[n])
    call('HSET', node_key(late[n]), 'renewed', digits(now), 'steady', digits(now))
  end
  return #late > 0
end

-- Return whether a node is allowed to mark an incarnation dead whose lease ended. The renewals of the node must have
-- come in time since that end, or for as long as that lease lasts.
local function may_mark_dead(reaper, incarnation, end_of_lease)
  local own, others = call('HMGET', node_key(reaper), 'renewed', 'steady'), call('HMGET', node_key(incarnation), 'renewed', 'ttl')
  local last, ttl = whole_number(others[1]) or 0, whole_number(others[2]) or 0
  if not is_time(end_of_lease) and last <= now and last + ttl > now then
    -- The expiry is damaged, and the last renewal shows that the lease has not ended.
    call('ZADD', LEASES, digits(last + ttl), incarnation)
    return false
  end
  local ends, renewed = tonumber(call('ZSCORE', LEASES, reaper) or '0'), whole_number(own[1]) or 0
  if now - renewed > (ends - renewed) / 2 then
    return false
  end
  local steady = whole_number(own[2]) or renewed
  return steady <= end_of_lease or now - steady >= end_of_lease - last
end

-- Return how many microseconds pass before a reap by this incarnation can find claims to take back: 0 if a dead
-- incarnation still has some.
local function time_to_reap(incarnation, ttl)
  if call('EXISTS', DEAD) == 1 then
    return 0
  end
  local first = call('ZRANGE', LEASES, 0, 1, 'WITHSCORES')
  local ends = first[1] == incarnation and first[4] or first[1] ~= incarnation and first[2]
  return ends and max(0, tonumber(ends) + 1 - now) or ttl
end
