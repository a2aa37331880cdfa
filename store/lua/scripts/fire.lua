#!lua
-- Account for nominal times, with the instances that they make. It is refused when memory is full.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV, reply: see firing.lua
local node, retention = ARGV[1], tonumber(ARGV[6])

-- The first that has a slot and is not over, and the place behind the last that waits for it. What is over left it without
-- a word.
local function slot_now(name)
  local members = call('ZRANGE', slot_key(name), 0, -1, 'WITHSCORES')
  local slot = {waiting = {}, place = max(now, tonumber(members[#members] or '0') + 1)}
  for n = 1, #members, 2 do
    if slot.holder then
      slot.waiting[#slot.waiting + 1] = members[n]
    else
      local r = decode(call('MGET', record_key(members[n]))[1])
      if r and (not is_final(r.state) or r.releasing) then
        slot.holder, slot.record = members[n], r
      else
        leave_slot(name, members[n])
      end
    end
  end
  return slot
end

-- Cancel what has the slot and what waits for it; answers who had to make room.
local function replace(name, slot)
  local ended_ids = {}
  local made_room = nil
  for n = #slot.waiting, 0, -1 do
    local id = n == 0 and slot.holder or slot.waiting[n]
    local r = n == 0 and slot.record or decode(call('MGET', record_key(id))[1])
    if r and not is_final(r.state) then
      local waits = r.state == SCHEDULED
      cancel(r, id, node, REPLACED, retention)
      ended_ids[#ended_ids + 1] = id
      made_room = id
      if n == 0 and waits then
        slot.holder = nil
      end
    elseif n > 0 then
      leave_slot(name, id)
    end
  end
  slot.waiting = {}
  ended(ended_ids)
  return made_room
end

local function is_replaced(slot, id)
  if id == slot.holder then
    return slot.record.state == SCHEDULED
  end
  for _, waiting in ipairs(slot.waiting) do
    if id == waiting then
      return true
    end
  end
  return false
end

local function make(at, name, record, overlap)
  local limit, id, spec = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
  local takes_slot = overlap ~= 'allow'
  local one = template(at + INSTANCE_SIZE, node, takes_slot and name or nil)
  local slot = takes_slot and slot_now(name) or {waiting = {}}
  local taken, why = key_holder(one), nil
  if taken and not (overlap == 'replace' and is_replaced(slot, taken)) then
    why = KEY_TAKEN
  elseif slot.holder and overlap == 'skip' then
    why = STILL_RUNS
  elseif slot.holder and overlap == 'queue' and #slot.waiting >= limit then
    why = QUEUE_FULL
  end
  if why then
    record.outcome, record.reason = 'skipped', why
  else
    if slot.holder and overlap == 'replace' then
      record.cancelled = replace(name, slot)
    end
    local key, waits = record_key(id), slot.holder ~= nil
    record.instance, record.parked = id, waits or nil
    -- it is there already, or was, if its ledger went before a call that was sent again
    if not (call('MGET', key)[1] or has_gone and call('EXISTS', gone_key(id)) == 1) then
      if takes_slot then
        add_pair('ZADD', slot_key(name), slot.place, id)
        add_pair('HSET', SLOTS, id, name)
      end
      arrive(one, id, key, spec, waits)
    end
  end
  settle_slots()
  wake_for_entered()
  key_holders = {}
end

local replies = fire_all(make)
bound_hints()
return replies
