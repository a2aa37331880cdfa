#!lua flags=allow-oom
-- End a lease in order, and hand back up to `limit` of its claims without counting them; called until none is left.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     incarnation, limit, default retention, limit of final instances per kind
-- Reply    {number of claims handed back, 1 if none is left, set-aside instances}
local incarnation = ARGV[1]
local alive, entry_text = call('ZSCORE', LEASES, incarnation), call('HGET', DEAD, incarnation)
if not alive and not entry_text then
  return {0, 1, {}}
end
local node = call('HGET', node_key(incarnation), 'name') or sub(entry_text or '', 3)
if alive then
  entry_text = ending(incarnation, true)
end
woken[incarnation] = true  -- do not wake this node
local taken, all = take_back(incarnation, sub(entry_text, 1, 1), tonumber(ARGV[2]), node, tonumber(ARGV[3]))
after_claims(tonumber(ARGV[4]))

if alive then
  mark_dead(incarnation, entry_text)
end
if all then
  call('HDEL', DEAD, incarnation)
end
write_all()
call('PEXPIRE', charged_key(incarnation), CHARGED_MS)  -- it may have been marked dead before
return {#taken, all and 1 or 0, write_set_aside()}
