#!lua flags=no-writes
-- Schedules by name.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     names
-- Reply    per name the schedule as in schedule.lua, or nil
local rows = {}
for n, name in ipairs(ARGV) do
  rows[n] = schedule_row(name)
end
return rows
