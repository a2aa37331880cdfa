#!lua flags=allow-oom
-- Remove a schedule and its ledger. The instances of the schedule stay, and so does the slot.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     name, expected revision or "", number of removals to remember, request
-- Reply    1, also to a request that was answered 1 before; 0 if no schedule had the name and revision
local REMEMBER_MS = 600000
local name, key = ARGV[1], schedule_key(ARGV[1])
if call('EXISTS', removal_key(ARGV[4])) == 1 then
  return 1
end
local revision = call('HGET', key, 'revision')
if call('EXISTS', key) == 0 or ARGV[2] ~= '' and ARGV[2] ~= revision then
  return 0
end
call('ZCARD', SCHEDULES)
local surplus = call('ZCARD', REMOVED) + 1 - tonumber(ARGV[3])
local new = digits(next_revision())
hint_all('s' .. name)

call('SET', removal_key(ARGV[4]), '', 'PX', REMEMBER_MS)
call('UNLINK', key, fired_key(name), gaps_key(name))
set_revision('latest', new)
call('ZREM', SCHEDULES, name)
call('ZADD', REMOVED, new, name)
if surplus > 0 then
  local forgotten = call('ZRANGE', REMOVED, surplus - 1, surplus - 1, 'WITHSCORES')
  set_revision('floor', digits(tonumber(forgotten[2])))
  call('ZREMRANGEBYRANK', REMOVED, 0, surplus - 1)
end
write_all()
return 1
