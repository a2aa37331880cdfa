#!lua flags=allow-oom
-- Append log lines to an instance that the caller need not hold.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     id, most lines, most bytes, then the lines
-- Reply    1, or 0 for an instance that is not there
local id, lines = ARGV[1], {}
local r = decode(call('MGET', record_key(id))[1])
if not r then
  return 0
end
for n = 4, #ARGV do
  lines[n - 3] = ARGV[n]
end
local plan = append_logs(r, id, lines, tonumber(ARGV[2]), tonumber(ARGV[3]))
set(record_key(id), encode(r))
changed(id)
write_logs(plan)
write_all()
bound_hints()
return 1
