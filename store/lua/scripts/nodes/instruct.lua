#!lua flags=allow-oom
-- Replace the instruction of a live incarnation, and tell the incarnation to renew its lease now.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, instruction
-- Reply    1, or 0 if the incarnation is not alive
local ends = call('ZSCORE', LEASES, ARGV[1])
if not ends or tonumber(ends) < now then
  return 0
end
call('HSET', node_key(ARGV[1]), 'instruction', ARGV[2])
hint(ARGV[1], 'c')
write_all()
return 1
