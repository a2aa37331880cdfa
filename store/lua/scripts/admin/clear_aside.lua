#!lua flags=allow-oom
-- Remove what was set aside of some instances a call. After the last of them, the count of damaged values begins again.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     number of instances
-- Reply    number of instances that are left
local found, without_record = call('LRANGE', ASIDE, 0, ARGV[1] - 1), {}
for _, entry_text in ipairs(found) do
  local id = sub(entry_text, 1, ID_SIZE)
  unlink(bad_key(id))
  -- The id can have been enqueued again since.
  if call('EXISTS', record_key(id)) == 0 then
    unlink(spec_key(id))
    unlink(logs_key(id))
    unlink(steps_key(id))
    without_record[#without_record + 1] = id
  end
end
end_claims_of(without_record)
write_all()
call('LTRIM', ASIDE, #found, -1)
local left = call('LLEN', ASIDE)
if left == 0 then
  call('UNLINK', ASIDE_COUNT)
end
return left
