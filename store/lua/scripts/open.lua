#!lua flags=allow-oom
-- Tell the layout of the namespace; a new one gets ours.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     -
-- Reply    its layout
local found = call('GET', KEYS[2])
if not found then
  call('SET', KEYS[2], LAYOUT)
end
return found or LAYOUT
