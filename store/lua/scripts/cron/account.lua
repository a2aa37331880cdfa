#!lua flags=allow-oom
-- Record nominal times that create no instance. The script also runs when the memory of the server is full.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     see lib/firing.lua
-- Reply    see lib/firing.lua
return fire_all()
