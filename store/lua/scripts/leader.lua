#!lua flags=no-writes
-- Who leads now.
--
-- KEYS     the namespace's prefix, its layout
-- Reply    as in schedule.lua
return leader_now()
