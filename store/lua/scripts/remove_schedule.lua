#!lua flags=allow-oom
-- Remove a schedule and its ledger; its instances, and who has its slot, stay.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     name, revision that is expected or "", how many removals are remembered
-- Reply    1, or 0 if it was not there
local name, key = ARGV[1], schedule_key(ARGV[1])
local revision = call('HGET', key, 'revision')
if not revision or ARGV[2] ~= '' and ARGV[2] ~= revision then
  return 0
end
call('ZCARD', SCHEDULES)
local surplus = call('ZCARD', REMOVED) + 1 - tonumber(ARGV[3])
local new = digits(next_revision())
hint_all('s' .. name)

call('UNLINK', key, fired_key(name), gaps_key(name))
call('HSET', REVISIONS, 'latest', new)
call('ZREM', SCHEDULES, name)
call('ZADD', REMOVED, new, name)
if surplus > 0 then
  local forgotten = call('ZRANGE', REMOVED, surplus - 1, surplus - 1, 'WITHSCORES')
  call('HSET', REVISIONS, 'floor', digits(tonumber(forgotten[2])))
  call('ZREMRANGEBYRANK', REMOVED, 0, surplus - 1)
end
write_all()
bound_hints()
return 1
