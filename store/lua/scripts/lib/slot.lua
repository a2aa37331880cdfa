-- A schedule's slot, which instances of it take one at a time. Those that wait for it are Scheduled, indexed, and in no
-- queue. What a script takes out of slots is settled once, when it has planned all else.
local leaving = {}

local function leave_slot(schedule, id)
  local ids = leaving[schedule]
  if not ids then
    ids = {}
    leaving[schedule] = ids
  end
  ids[id] = true
  add('ZREM', slot_key(schedule), id)
  add('HDEL', SLOTS, id)
end

-- Let the first that waits for it, and still can run, into its queue.
local function pass_on(schedule, ids, gone)
  for n = 2, #ids do
    local id = ids[n]
    if not gone[id] then
      local r = decode(call('MGET', record_key(id))[1])
      if r and r.state == SCHEDULED then
        enter_queue(r, id)
        if r.due <= now then
          wake(r.kind, 1)
        else
          wake_for_earliest(r.kind, r.due)
        end
        return
      end
      add('ZREM', slot_key(schedule), id)
      add('HDEL', SLOTS, id)
    end
  end
end

local function settle_slots()
  for schedule, gone in pairs(leaving) do
    call('HLEN', SLOTS)
    local ids = call('ZRANGE', slot_key(schedule), 0, -1)
    if gone[ids[1]] then
      pass_on(schedule, ids, gone)
    end
  end
  leaving = {}
end
