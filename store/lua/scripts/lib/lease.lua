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
-- hold for the difference longer, also one of a dead node: count it from now on. Answers the leases to write.
local function leases_of_the_future()
  local found = {}
  local leases = call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
  for n = 1, #leases, 2 do
    local renewed = tonumber(call('HGET', node_key(leases[n]), 'renewed') or '0')
    if renewed > now then
      found[#found + 1] = {leases[n], now + tonumber(leases[n + 1]) - renewed}
    end
  end
  return found
end

local function count_from_now(leases)
  for _, one in ipairs(leases) do
    call('ZADD', LEASES, digits(one[2]), one[1])
    call('HSET', node_key(one[1]), 'renewed', digits(now), 'steady', digits(now))
  end
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
