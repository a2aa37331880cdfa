#!lua flags=allow-oom
-- Remove entries whose instances no longer exist, some entries a call: from the delayed instances, from the slots of
-- schedules, or from the watched instances.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     "delayed", "slots" or "watched"; cursor ("0" to begin); number of entries to look at
-- Reply    next cursor ("0" at the end)
local what = ARGV[1]
local found = call(what == 'delayed' and 'ZSCAN' or 'HSCAN', PREFIX .. what, ARGV[2], 'COUNT', ARGV[3])
local entries, keys = {}, {}
for n = 1, #found[2], 2 do
  local member = found[2][n]
  if not is_reserved(member) then
    entries[#entries + 1] = {member, found[2][n + 1]}
    keys[#keys + 1] = record_key(sub(member, 1, ID_SIZE))
  end
end
for n, record in ipairs(#keys > 0 and call('MGET', unpack(keys)) or {}) do
  local member, value = entries[n][1], entries[n][2]
  if not record and what == 'slots' then
    free_slot_later(value, member)
  elseif not record then
    add(what == 'delayed' and 'ZREM' or 'HDEL', PREFIX .. what, member)
  end
end
pass_slots_and_wake()
write_all()
return found[1]
