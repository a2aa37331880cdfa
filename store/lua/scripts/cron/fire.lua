#!lua
-- Record nominal times, and create their instances. The server refuses the script when the memory of the server is
-- full.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     see lib/firing.lua
-- Reply    see lib/firing.lua; or -1 as in enqueue.lua
local node, retention = ARGV[1], tonumber(ARGV[6])

-- Return the holder of a slot, the waiting instances, and the position after the last. A holder that is over but
-- still in the slot leaves the slot in the same call.
local function slot_now(name)
  local members = call('ZRANGE', slot_key(name), 0, -1, 'WITHSCORES')
  local position = tonumber(members[#members] or '0') + 1
  local slot = {waiting = {}, position = is_time(position) and max(now, position) or now}
  for n = 1, #members, 2 do
    if slot.holder then
      slot.waiting[#slot.waiting + 1] = members[n]
    else
      local record = decode(call('MGET', record_key(members[n]))[1])
      if record and (not is_final(record.state) or record.releasing) then
        slot.holder, slot.record = members[n], record
      else
        free_slot_later(name, members[n])
      end
    end
  end
  return slot
end

-- Cancel the holder of the slot and the waiting instances. Return the id of the earliest cancelled instance, or nil.
local function replace(name, slot)
  local cancelled_ids = {}
  local freed = nil
  for n = #slot.waiting, 0, -1 do
    local id = n == 0 and slot.holder or slot.waiting[n]
    local record = n == 0 and slot.record or decode(call('MGET', record_key(id))[1])
    if record and not is_final(record.state) then
      local waits = record.state == SCHEDULED
      cancel(record, id, node, REPLACED, retention)
      cancelled_ids[#cancelled_ids + 1] = id
      freed = id
      if n == 0 and waits then
        slot.holder = nil
      end
    elseif n > 0 then
      free_slot_later(name, id)
    end
  end
  slot.waiting = {}
  hint_end(cancelled_ids)
  return freed
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
  local limit_text, concurrency, gate_key = match(ARGV[at], '^(%d+) ?(%d*) ?(.*)$')
  local limit, id, spec = tonumber(limit_text), ARGV[at + 1], ARGV[at + 2]
  local key = record_key(id)
  -- A call that is sent again after the ledger was trimmed finds no record of the first call. The instance can exist,
  -- or have existed: it must not be added twice, and must not free a slot for itself.
  if call('MGET', key)[1] or has_gone and call('EXISTS', gone_key(id)) == 1 then
    record.instance = id
    return
  end
  local takes_slot = overlap ~= 'allow'
  local one = template(at + INSTANCE_SIZE, node, takes_slot and name or nil)
  local slot = takes_slot and slot_now(name) or {waiting = {}}
  local taken, reason = key_holder(one), nil
  if taken and not (overlap == 'replace' and is_replaced(slot, taken)) then
    reason = KEY_TAKEN
  elseif slot.holder and overlap == 'skip' then
    reason = STILL_RUNS
  elseif slot.holder and overlap == 'queue' and #slot.waiting >= limit then
    reason = QUEUE_FULL
  end
  if reason then
    record.by_hand = record.outcome == 'triggered' or nil
    record.outcome, record.reason = 'skipped', reason
  else
    if slot.holder and overlap == 'replace' then
      record.cancelled = replace(name, slot)
    end
    local waits = slot.holder ~= nil
    record.instance, record.parked = id, waits or nil
    if takes_slot then
      add_pair('ZADD', slot_key(name), slot.position, id)
      add_pair('HSET', SLOTS, id, name)
    end
    add_instance(one, id, key, spec, waits, gate_key ~= '' and concurrency or nil, gate_key)
  end
  pass_slots_and_wake()
  key_holders = {}
end

local at = FIRST_FIRE
for n = 1, gates and 0 or tonumber(ARGV[FIRST_FIRE - 1]) do
  if ARGV[at + 5] ~= '' and find(ARGV[at + FIRE_SIZE], ' ', 1, true) then
    return -1
  end
  at = at + FIRE_SIZE + (ARGV[at + 5] ~= '' and INSTANCE_SIZE + TEMPLATE_SIZE or 0)
end
local replies = fire_all(make)
if settle then
  settle(MAX_SETTLED, retention)
end
return replies
