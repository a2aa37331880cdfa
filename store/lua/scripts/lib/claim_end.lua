-- What a claim does after it has taken instances: for other nodes, for shared limits, and for its queues.

-- Return when an incarnation that found nothing must claim again, because a limit opens: the earlier time of this one and
-- `next_due`. Of the incarnations that wait for a limit, one gets the moment.
local next_moment = shared and function(incarnation, next_due)
  for kind, rule in pairs(shared.held_back) do
    local closed = closed_limit(rule)
    if closed and not has_alarm(closed, incarnation)
      and call('EXISTS', ready_key(kind), suspects_key(kind)) > 0 then
      closed.told = true
      local alarm = digits(closed.opens) .. ' ' .. incarnation
      if alarm ~= closed.alarm then
        closed.alarm = alarm
        add_pair('HSET', LIMITS, 'l' .. closed.name, text_of_limit(closed))
      end
      next_due = next_due > 0 and min(next_due, closed.opens) or closed.opens
    end
  end
  return next_due
end

-- Use up the rates of what was given. Wake nodes for the room that the commit of the same turn made and this claim left.
-- Hand on the moment at which a limit opens, if the node of a full claim can be busy at that moment.
local limits_after_claim = shared and function(claim, selection, freed, passed)
  local requests, is_full, offers = requests_key(claim.incarnation), claim.count >= claim.limit, {}
  for name, limit in pairs(shared.limits) do
    local given = limit and limit.left and limit.before - limit.left or 0
    if given > 0 and limit.period > 0 then
      limit.tat, limit.left = max(limit.tat, now) + given * limit.period, nil
      add_pair('HSET', LIMITS, 'l' .. name, text_of_limit(limit))
      offers[name] = 1
    end
    if limit and claim.count > 0 and is_full and match(limit.alarm, ' (.+)$') == claim.incarnation then
      limit.alarm, offers[name] = '', 1
    end
  end
  for name in pairs({freed = freed or nil, passed = passed or nil}) do
    add('HDEL', requests, name)
  end
  for name in string.gmatch(freed or '', '[^%z]+') do
    offers[name] = LATEST
  end
  local taken, suspect = {}, selection.suspect
  for _, source in ipairs(selection.sources) do
    taken[source.kind] = source.taken
  end
  if suspect then
    taken[suspect.kind] = (taken[suspect.kind] or 0) + suspect.taken
  end
  for count, kind in string.gmatch(passed or '', '(%d+) ([^%z]+)') do
    local left = tonumber(count) - (taken[kind] or 0)
    newly_due[kind] = left > 0 and max(newly_due[kind] or 0, left) or newly_due[kind]
  end
  local function claims_again(kind)
    return not is_full and (claim.caps[kind] or claim.letter ~= 's' and find(sets_of(kind) or '', claim.set, 1, true))
  end
  for name, most in pairs(offers) do
    local limit = limit_of(name)
    if limit then
      offer_room(limit, most, taken, claims_again)
    end
  end
end

-- Empty the fields of damaged limits, and report them. Do this after all other writes.
local remove_damaged_limits = shared and function()
  for text in pairs(shared.damaged) do
    local what, name = match(text, '^(%l+) (.*)$')
    local _, has_other_type = coordination(LIMITS, 'k')
    if has_other_type then
      call('UNLINK', LIMITS)
    end
    call('HSET', LIMITS, (what == 'limit' and 'l' or 'k') .. name, '')
    count_stray(name, what, 'it cannot be read and lets all pass until a node publishes it again', 'l')
  end
end

-- Return a kind of which the selection leaves due instances, or nil.
local function kind_left(selection)
  local claim, heads = selection.claim, selection.heads
  while shared and heads.member and shared.room(shared.rule(sub(heads.member, ID_SIZE + 17))) <= 0 do
    advance(heads, claim.limit)
  end
  local left = claim.cut_at or heads.member and sub(heads.member, ID_SIZE + 17)
  for _, source in ipairs(selection.sources) do
    left = left or source.member and (not shared or shared.room(shared.rule(source.kind)) > 0) and source.kind
  end
  return left
end

-- Remove the taken instances from their queues. They are the first ones of each queue, so one command removes them.
local function leave_queues(selection)
  local taken, sources = {}, selection.sources
  sources[#sources + 1] = selection.suspect
  for _, source in ipairs(sources) do
    if source.taken > 0 then
      as_table(index_key(PROCESSING, source.kind))
      taken[prepare_queue(source.kind, source.suspect, true, source.head)] = source.taken
    end
  end
  for key, count in pairs(taken) do
    call('ZREMRANGEBYRANK', key, 0, count - 1)
  end
end
