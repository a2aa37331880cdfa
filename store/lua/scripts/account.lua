#!lua flags=allow-oom
-- Account for nominal times that make no instance, also when memory is full.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV, reply: see firing.lua
return fire_all()
