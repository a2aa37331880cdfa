#!lua flags=no-writes
-- Read schedules by name, until the reply has the given number of bytes.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     bytes after which the reply ends, names
-- Reply    per name, until the reply ends, the schedule as in lib/schedule.lua, or nil
local rows, bytes_left = {}, tonumber(ARGV[1])
for n = 2, #ARGV do
  if bytes_left > 0 then
    rows[n - 1] = schedule_row(ARGV[n])
    bytes_left = bytes_left - size_of_row(rows[n - 1])
  end
end
return rows
