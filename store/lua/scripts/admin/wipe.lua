#!lua flags=allow-oom
-- Remove every key of the namespace, for any layout. The caller repeats the script with the cursor of the reply until
-- the cursor is 0.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     cursor, number of keys of the server to look at
-- Reply    {cursor, number of removed keys}
local found = redis.call('SCAN', ARGV[1], 'MATCH', KEYS[1] .. '*', 'COUNT', ARGV[2])
if #found[2] > 0 then
  redis.call('UNLINK', unpack(found[2]))
end
return {found[1], #found[2]}
