#!lua flags=allow-oom
-- Append log lines to an instance that the caller does not hold.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     id, maximum of lines, maximum of bytes, then the lines
-- Reply    1, or 0 if no instance has the id
local id, lines = ARGV[1], {}
local record = decode(call('MGET', record_key(id))[1])
if not record then
  return 0
end
for n = 4, #ARGV do
  lines[n - 3] = ARGV[n]
end
local plan = append_logs(record, id, lines, tonumber(ARGV[2]), tonumber(ARGV[3]))
put_string(record_key(id), encode(record))
hint_change(id)
write_logs(plan)
write_all()
return 1
