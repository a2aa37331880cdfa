-- A schedule's slot, which instances of it take one at a time. Those that wait for it are Scheduled, indexed, and in no
-- queue. A script notes who leaves a slot as {schedule, id}, and settles that when it has planned all else. Hardly any
-- call has something to settle, so this is one function, which costs the others next to nothing.
local leaving = nil

local function leave_slot(schedule, id)
  leaving = leaving or {}
  leaving[#leaving + 1] = {schedule, id}
end

local function settle_slots()
  local gone = {}
  for _, one in ipairs(leaving or {}) do
    local schedule, id = one[1], one[2]
    gone[schedule] = gone[schedule] or {}
    gone[schedule][id] = true
  end
  leaving = nil
  for schedule, left in pairs(gone) do
    local key = slot_key(schedule)
    local ids, passed_on = call('ZRANGE', key, 0, -1), true
    call('HLEN', SLOTS)
    for n, id in ipairs(ids) do
      if n == 1 then
        passed_on = not left[id]
      elseif not passed_on and not left[id] then
        -- the first that still can run enters its queue; it never ran, so it is no suspect
        local r = decode(call('MGET', record_key(id))[1])
        if r and r.state == SCHEDULED then
          let_in(id, r.kind, r.priority, r.due, false)
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
