-- The instances of a schedule take the slot of the schedule one at a time. Instances that wait for the slot are
-- Scheduled and indexed, but in no queue.
-- A script keeps each instance that leaves a slot. After the script has planned everything else, the script passes the
-- slot on and wakes nodes for new work.
-- One function does both: few calls have a slot to pass on, and the server builds every function of a script at each
-- call.
local leaving = nil

local function free_slot_later(schedule, id)
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
  if shared then
    limit_wakes.make_room(newly_due)
  end
  wake_for_new_work()
end
