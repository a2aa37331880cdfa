#!lua flags=allow-oom
-- Remove every key of the namespace, whatever its layout; called with the cursor of its reply, until that is 0.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     cursor, number of keys of the server to look at
-- Reply    {cursor, number of removed keys}
local found = redis.call('SCAN', ARGV[1], 'MATCH', KEYS[1] .. '*', 'COUNT', ARGV[2])
if #found[2] > 0 then
  redis.call('UNLINK', unpack(found[2]))
end
return {found[1], #found[2]}
