#!lua flags=allow-oom
-- Remove every key of the namespace, whatever its layout; called with the cursor that it answers, until that is 0.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     cursor, how many keys of the server to look at
-- Reply    {cursor, how many keys were removed}
local found = redis.call('SCAN', ARGV[1], 'MATCH', KEYS[1] .. '*', 'COUNT', ARGV[2])
if #found[2] > 0 then
  redis.call('UNLINK', unpack(found[2]))
end
return {found[1], #found[2]}
