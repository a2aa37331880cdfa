-- Which nodes a limit wakes, and which node waits for the moment at which a limit opens. A limit has `told` if a node
-- learns of that moment in this script. Nil as `shared` in limits.lua.

-- Whether a live idle incarnation claims again when a closed limit opens, or earlier.
local has_alarm = shared and function(limit, except)
  local at, holder = match(limit.alarm, '^(%d+) (.+)$')
  return limit.told or holder and holder ~= except and tonumber(at) >= now and tonumber(at) <= limit.opens
    and call('HEXISTS', IDLE, holder) == 1 and tonumber(call('ZSCORE', LEASES, holder) or '0') > now
end

-- Return the limit of a kind that time alone opens, the last one; nil if there is none, or if the kind has no room
-- for another reason.
local closed_limit = shared and function(rule)
  local last = nil
  for _, limit in ipairs(rule.limits) do
    if shared.left(limit) <= 0 and not limit.opens then
      return nil
    elseif shared.left(limit) <= 0 and not (last and last.opens > limit.opens) then
      last = limit
    end
  end
  return not rule.paused and last or nil
end

-- Return how many nodes the given number of queued instances of a kind may wake: as many as can start, or one if no
-- node waits yet for the moment at which a limit opens; then also that limit.
local wanted_nodes = shared and function(kind, instances)
  local rule = shared.rule(kind)
  local closed = rule and closed_limit(rule)
  if closed and not has_alarm(closed) then
    return min(instances, 1), closed
  end
  return rule and min(instances, shared.room(rule)) or instances
end

-- Wake nodes for queued instances of a kind by calling `wake_some_nodes`.
local wake_in_limits = shared and function(kind, instances, wake_some_nodes)
  local wanted, closed = wanted_nodes(kind, instances)
  local nodes, rule = wake_some_nodes(kind, wanted), shared.rule(kind)
  if closed then
    closed.told = nodes > 0
  elseif rule then
    shared.take(rule, nodes)
  end
end

-- Return whether a kind whose head is in one of these indexes has something to do for a node that waits; as the
-- second value, whether further kinds were not looked at. A node that waits looks at MAX_HEADS kinds of its set, and reads
-- the rules of a piece of them together.
local is_due_in_limits = shared and function(heads)
  local MAX_HEADS, PIECE, has_more = 500, 50, false
  for _, key in ipairs(heads) do
    local kinds = {}
    for n, member in ipairs(call('ZRANGE', key, 0, MAX_HEADS - 1)) do
      kinds[n] = sub(member, ID_SIZE + 17)
    end
    for n = 1, #kinds do
      if n % PIECE == 1 then
        shared.load({unpack(kinds, n, min(n + PIECE - 1, #kinds))})
      end
      if wanted_nodes(kinds[n], 1) > 0 then
        return true
      end
    end
    has_more = has_more or #kinds == MAX_HEADS
  end
  return false, has_more
end
