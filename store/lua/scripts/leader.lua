#!lua flags=no-writes
-- The current leader.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     none
-- Reply    as in lib/schedule.lua
return leader_now()
