#!lua flags=allow-oom
-- Check the layout of the namespace, or note ours in a new one.
--
-- KEYS[1]  the namespace's prefix
-- ARGV     our layout
-- Reply    {the namespace's layout, now}
local key = P .. 'layout'
local found = call('GET', key)
if not found then
  call('SET', key, ARGV[1])
end
return {found or ARGV[1], digits(now)}
