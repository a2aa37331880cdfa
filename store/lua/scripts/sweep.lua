#!lua flags=allow-oom
-- Remove entries about instances that are gone, some at a time: from the delayed ones, from the slots, and about those
-- whose end is waited for.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     "delayed", "slots" or "watched"; cursor ("0" to begin); how many to look at
-- Reply    next cursor ("0" at the end)
local what = ARGV[1]
local found = call(what == 'delayed' and 'ZSCAN' or 'HSCAN', P .. what, ARGV[2], 'COUNT', ARGV[3])
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
    leave_slot(value, member)
  elseif not record then
    add(what == 'delayed' and 'ZREM' or 'HDEL', P .. what, member)
  end
end
settle_slots()
wake_for_entered()
write_all()
bound_hints()
return found[1]
