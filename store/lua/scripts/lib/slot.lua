-- The slot of a schedule, which its instances take one at a time. Instances that wait for it are Scheduled, indexed, and in
-- no queue. A script notes an instance that leaves a slot as {schedule, id}. It passes the slot on when it has planned
-- everything else, and then wakes nodes for new work. Few calls have a slot to pass on, so this is one function, which costs
-- the other calls little.
local leaving = nil

local function note_slot_left(schedule, id)
  leaving = leaving or {}
  leaving[#leaving + 1] = {schedule, id}
end

local function pass_slots_and_wake()
  local leavers = {}
  for _, one in ipairs(leaving or {}) do
    local schedule, id = one[1], one[2]
    leavers[schedule] = leavers[schedule] or {}
    leavers[schedule][id] = true
  end
  leaving = nil
  for schedule, left in pairs(leavers) do
    local key = slot_key(schedule)
    local ids, passed_on = call('ZRANGE', key, 0, -1), true
    call('HLEN', SLOTS)
    for n, id in ipairs(ids) do
      if n == 1 then
        passed_on = not left[id]
      elseif not passed_on and not left[id] then
        -- the first that can still run enters its queue; it never ran, so it is no suspect
        local record = decode(call('MGET', record_key(id))[1])
        if record and record.state == SCHEDULED then
          add_to_queue(id, record.kind, record.priority, record.due, false)
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
  wake_for_new_work()
end
