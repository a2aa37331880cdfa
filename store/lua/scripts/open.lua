#!lua flags=allow-oom
-- Check the layout of the namespace, or note ours in a new one.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     our layout
-- Reply    {the namespace's layout, now}
local key = KEYS[2]
local found = call('GET', key)
if not found then
  call('SET', key, ARGV[1])
end
return {found or ARGV[1], digits(now)}
