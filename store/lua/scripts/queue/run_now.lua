#!lua flags=allow-oom
-- Make delayed instances due now. Only the due time of a record changes, and its position in the queues.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     request, ids
-- Reply    {set-aside instances, then a number per id}: 0 the id is unknown, 1 due now, 2 was due before, 3 waits for
--          the slot of its schedule, 5 is suspended; else the state of the instance
local ANSWER_MS = 600000
local UNKNOWN, DUE_NOW, WAS_DUE, PARKED, IS_SUSPENDED = 0, 1, 2, 3, 5
local ANSWERS = {[UNKNOWN] = true, [DUE_NOW] = true, [WAS_DUE] = true, [PARKED] = true, [IS_SUSPENDED] = true,
  [PROCESSING] = true, [CANCELLED] = true, [TIMED_OUT] = true, [COMPLETED] = true, [TERMINATED] = true}
local answers_key = run_now_key(ARGV[1])
local keys = {}
for n = 2, #ARGV do
  keys[n - 1] = record_key(ARGV[n])
end

local function is_parked(record, id)
  local key = record.slot ~= '' and slot_key(record.slot)
  return key and call('ZSCORE', key, id) and call('ZRANGE', key, 0, 0)[1] ~= id
end

local function run_now(record, id)
  if record.state ~= SCHEDULED then
    return record.state
  elseif is_waiting(record) then
    return IS_SUSPENDED
  elseif is_parked(record, id) then
    return PARKED
  elseif record.due <= now then
    return WAS_DUE
  end
  remove_from_queue(record, id)
  record.due = now
  add_to_queue(id, record.kind, record.priority, now, is_suspect(record))
  put_string(record_key(id), encode(record))
  hint_change(id)
  return DUE_NOW
end

local answered = call('HMGET', answers_key, unpack(ARGV, 2))
local answers, seen = {}, {}
for n, raw in ipairs(call('MGET', unpack(keys))) do
  local id = ARGV[n + 1]
  local answer = seen[id] or tonumber(answered[n] or '')
  if not ANSWERS[answer or -1] then
    local record = decode(raw)
    if raw and not record then
      set_aside(id, '', 'unreadable record')
    end
    answer = record and run_now(record, id) or UNKNOWN
    add_pair('HSET', answers_key, id, answer)
  end
  answers[n], seen[id] = answer, answer
end
pass_slots_and_wake()
write_all()
call('PEXPIRE', answers_key, ANSWER_MS)
return {write_set_aside(), unpack(answers)}
