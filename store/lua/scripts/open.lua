#!lua flags=allow-oom
-- Read the layout of the namespace; a new namespace gets the layout of the running version of peerjob.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     none
-- Reply    the layout of the namespace
local found = call('GET', KEYS[2])
if not found then
  call('SET', KEYS[2], LAYOUT)
end
return found or LAYOUT
