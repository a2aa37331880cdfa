-- Which nodes a limit wakes, and which node waits for the moment at which a limit opens. A limit has `told` if a node
-- learns of that moment in this script. Nil as `shared` in limits.lua.
local limit_wakes = shared and (function()
  -- A node that waits looks at this many kinds of its set.
  local MAX_HEADS = 500
  local self = {}

  -- Whether a live idle incarnation claims again when a closed limit opens, or earlier.
  local function has_alarm(limit, except)
    local at, holder = match(limit.alarm, '^(%d+) (.+)$')
    return limit.told or holder and holder ~= except and tonumber(at) >= now and tonumber(at) <= limit.opens
      and call('HEXISTS', IDLE, holder) == 1 and tonumber(call('ZSCORE', LEASES, holder) or '0') > now
  end

  -- Return the limit of a kind that time alone opens, the last one; nil if there is none, or if the kind has no room
  -- for another reason.
  local function closed_limit(rule)
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
  function self.wanted(kind, instances)
    local rule = shared.rule(kind)
    local closed = rule and closed_limit(rule)
    if closed and not has_alarm(closed) then
      return min(instances, 1), closed
    end
    return rule and min(instances, shared.room(rule)) or instances
  end

  -- Wake nodes for queued instances of a kind by calling `wake`.
  function self.wake(kind, instances, wake)
    local wanted, closed = self.wanted(kind, instances)
    local nodes, rule = wake(kind, wanted), shared.rule(kind)
    if closed then
      closed.told = nodes > 0
    elseif rule then
      shared.take(rule, nodes)
    end
  end

  -- Return whether a kind whose head is in one of these indexes has something to do for a node that waits.
  function self.is_due_in(heads)
    for _, key in ipairs(heads) do
      for _, member in ipairs(call('ZRANGE', key, 0, MAX_HEADS - 1)) do
        if self.wanted(sub(member, ID_SIZE + 17), 1) > 0 then
          return true
        end
      end
    end
    return false
  end

  -- Return when an incarnation that found nothing must claim again, because a limit opens: the earlier time of this one
  -- and `next_due`. Of the incarnations that wait for a limit, one gets the moment.
  function self.next_moment(incarnation, next_due)
    for kind, rule in pairs(shared.held_back) do
      local closed = closed_limit(rule)
      if closed and not has_alarm(closed, incarnation) and shared.queued(kind) > 0 then
        closed.told = true
        add_pair('HSET', limit_key(closed.name), 'alarm', digits(closed.opens) .. ' ' .. incarnation)
        next_due = next_due > 0 and min(next_due, closed.opens) or closed.opens
      end
    end
    return next_due
  end

  -- Plan to wake nodes for up to `most` queued instances of each kind of a limit. `wake` in hints.lua wakes no more than
  -- there is room for. `taken`: instances that leave a queue besides the planned writes. `passes_over`: whether not to
  -- wake for a kind.
  function self.offer(limit, newly_due, most, taken, passes_over)
    for _, kind in ipairs(limit.kinds) do
      local queued = not passes_over(kind) and min(most, shared.queued(kind) - (taken[kind] or 0)) or 0
      newly_due[kind] = queued > 0 and max(newly_due[kind] or 0, queued) or newly_due[kind]
    end
  end

  -- Wake nodes for the room that ends of claims make in full limits. If a claim of the same turn follows, it does that
  -- for what it leaves: the names of the limits are kept for it.
  function self.make_room(newly_due)
    local names = {}
    for name, limit in pairs(shared.ended) do
      limit.left, names[name] = nil, limit.was_full or nil
      if limit.was_full and not shared.followed_by_claim then
        self.offer(limit, newly_due, LATEST, {}, function() return false end)
      end
    end
    for kind in pairs(shared.followed_by_claim and newly_due or {}) do
      local rule = shared.rule(kind)
      for _, limit in ipairs(rule and rule.limits or {}) do
        newly_due[kind] = not names[limit.name] and newly_due[kind] or nil
      end
    end
    local texts = {}
    for name in pairs(names) do
      texts[#texts + 1] = pack('>I4c0', #name, name)
    end
    if shared.followed_by_claim and texts[1] then
      add_pair('HSET', shared.followed_by_claim, 'freed', table.concat(texts))
    end
    shared.ended = {}
  end

  return self
end)()
