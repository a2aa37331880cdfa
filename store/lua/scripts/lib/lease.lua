-- What is known of a lease beside its end: when it was last renewed, and since when each renewal came in time. So the
-- server can tell who lapsed by himself from whom an outage kept from renewing, however late it is asked.

-- Since when renewals came in time, if one comes now.
local function steady_since(inc, ttl)
  local found = call('HMGET', node_key(inc), 'renewed', 'steady')
  if now - tonumber(found[1] or '0') > ttl / 2 then
    return digits(now)
  end
  return found[2] or found[1]
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
