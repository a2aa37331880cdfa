#!lua flags=allow-oom
-- Account for nominal times that make no instance, also when memory is full.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     see lib/firing.lua
-- Reply    see lib/firing.lua
return fire_all()
