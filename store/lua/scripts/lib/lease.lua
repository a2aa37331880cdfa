-- What is known of a lease beside its end: when it was last renewed, and since when each renewal came in time. So the
-- server can tell who lapsed by himself from whom an outage kept from renewing, however late it is asked.

-- Since when renewals came in time, if one comes now.
local function steady_since(inc, ttl)
  local found = call('HMGET', node_key(inc), 'renewed', 'steady')
  local since = now - tonumber(found[1] or '0')
  if since > ttl / 2 or since < 0 then
    return digits(now)
  end
  return found[2] or found[1]
end

-- The server's clock may step back, as in a failover to a slower host. A lease that was renewed in the future would then
-- hold for the difference longer, also one of a dead node: it counts from now on. Looks at the last `most` to end.
local function count_from_now(most)
  local leases, late = call('ZRANGE', LEASES, 0, most - 1, 'REV', 'WITHSCORES'), {}
  for n = 1, #leases, 2 do
    local ttl = tonumber(call('HGET', node_key(leases[n]), 'ttl') or '0')
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

-- Whether a node may say that the lease of another ended at a moment: its own was in time all the while, or has been
-- for as long as the other's lasts.
local function may_judge(reaper, inc, ended)
  local own, others = call('HMGET', node_key(reaper), 'renewed', 'steady'), call('HGET', node_key(inc), 'renewed')
  local ends, renewed = tonumber(call('ZSCORE', LEASES, reaper) or '0'), tonumber(own[1] or '0')
  if now - renewed > (ends - renewed) / 2 then
    return false
  end
  local steady = tonumber(own[2] or own[1])
  return steady <= ended or now - steady >= ended - tonumber(others or '0')
end
