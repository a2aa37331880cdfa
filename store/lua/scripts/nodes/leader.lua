#!lua flags=no-writes
-- Read the current leader.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     none
-- Reply    as in lib/schedule.lua
return leader_now()
