#!lua flags=allow-oom
-- Read the layout of the namespace; a new namespace gets the layout of this release.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     none
-- Reply    its layout
local found = call('GET', KEYS[2])
if not found then
  call('SET', KEYS[2], LAYOUT)
end
return found or LAYOUT
