-- The instances of a schedule take the slot of the schedule one at a time. Instances that wait for the slot are
-- Scheduled and indexed, but in no queue.
-- A script keeps each instance that leaves a slot. After the script has planned everything else, the script passes the
-- slot on and wakes nodes for new work.
local slot_leavers = nil

local function free_slot_later(schedule, id)
  slot_leavers = slot_leavers or {}
  slot_leavers[#slot_leavers + 1] = {schedule, id}
end

-- Plan to wake nodes for up to `most` queued instances of each kind of a limit; `wake` in hints.lua wakes no more than
-- there is room for. `taken`: instances that leave a queue besides the planned writes. `passes_over`: whether not to wake
-- for a kind.
local offer_room = shared and function(limit, most, taken, passes_over)
  for _, kind in ipairs(limit.kinds) do
    local queued = not passes_over(kind) and min(most, queued_of(kind) - (taken[kind] or 0)) or 0
    newly_due[kind] = queued > 0 and max(newly_due[kind] or 0, queued) or newly_due[kind]
  end
end

-- Wake nodes for the room that ends of claims make in full limits. If a claim of the same turn follows, it wakes nodes for
-- what it leaves of that room and of the instances that became due: both are kept for it.
local offer_ended = shared and function()
  local names, follower = {}, shared.followed_by_claim
  for name, limit in pairs(shared.with_ends) do
    limit.left = nil
    if limit.was_full then
      names[#names + 1], names[name] = name, true
    end
    if limit.was_full and not follower then
      offer_room(limit, LATEST, {}, function() return false end)
    end
  end
  for kind in pairs(follower and newly_due or {}) do
    local rule = shared.rule(kind)
    for _, limit in ipairs(rule and rule.limits or {}) do
      newly_due[kind] = not names[limit.name] and newly_due[kind] or nil
    end
  end
  if follower and names[1] then
    add_pair('HSET', follower, 'freed', table.concat(names, '\0'))
  end
  local passed = {}
  for kind, count in pairs(follower and idle_left > 0 and newly_due or {}) do
    passed[#passed + 1] = digits(count) .. ' ' .. kind
  end
  if passed[1] then
    add_pair('HSET', follower, 'passed', table.concat(passed, '\0'))
    newly_due = {}
  end
  shared.with_ends = {}
end

local pass_gates = gates and function()
  local leaving, coming, new, kinds = gates.leaving, gates.coming, gates.new, {}
  for kind, ids in pairs(gates.ends) do
    local is_usual = ids and not (leaving[kind] or coming[kind] or new[kind]) and pass_ended(kind, ids)
    for n = 1, ids and not is_usual and #ids or 0 do
      leave_gate(ids[n], kind, true)
    end
  end
  for kind, groups in pairs(new) do
    if groups[1] and not (groups[1].shape.keeps or groups[2] or leaving[kind] or coming[kind]) then
      pass_new(kind, groups[1])
    end
  end
  for _, lists in ipairs({leaving, coming, new}) do
    for kind in pairs(lists) do
      kinds[kind] = true
    end
  end
  for kind in pairs(kinds) do
    pass_kind(kind, {})
  end
  gates.leaving, gates.ends, gates.coming, gates.new, gates.unused, gates.is_busy = {}, {}, {}, {}, {}, false
end

local function pass_slots()
  local leavers = {}
  for _, one in ipairs(slot_leavers) do
    local schedule, id = one[1], one[2]
    leavers[schedule] = leavers[schedule] or {}
    leavers[schedule][id] = true
  end
  slot_leavers = nil
  for schedule, left in pairs(leavers) do
    local key = slot_key(schedule)
    local ids, passed_on = call('ZRANGE', key, 0, -1), true
    call('HLEN', SLOTS)
    for n, id in ipairs(ids) do
      if n == 1 then
        passed_on = not left[id]
      elseif not passed_on and not left[id] then
        -- The first waiting instance that can still run enters its queue. One from another store can be a suspect.
        local record = decode(call('MGET', record_key(id))[1])
        if record and record.state == SCHEDULED then
          add_to_queue(id, record.kind, record.priority, record.due, is_suspect(record))
          passed_on = true
        else
          left[id] = true
        end
      end
    end
    for id in pairs(left) do
      add('ZREM', key, id)
      add('HDEL', SLOTS, id)
    end
  end
end

local function pass_slots_and_wake()
  if slot_leavers then
    pass_slots()
  end
  if gates and gates.is_busy then
    pass_gates()
  end
  if shared and (shared.followed_by_claim or next(shared.with_ends)) then
    offer_ended()
  end
  wake_for_new_work()
end
