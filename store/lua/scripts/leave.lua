#!lua flags=allow-oom
-- End a lease in order and hand back up to `limit` of the claims left behind, uncounted; called until none is left.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, limit, default retention, most final instances per kind
-- Reply    {claims handed back, 1 when none is left, what was set aside}
local inc = ARGV[1]
local alive, entry_text = call('ZSCORE', LEASES, inc), call('HGET', DEAD, inc)
if not alive and not entry_text then
  return {0, 1, {}}
end
local node = call('HGET', node_key(inc), 'name') or sub(entry_text or '', 3)
if alive then
  entry_text = ending(inc, true)
end
woken[inc] = true  -- it shall not be woken itself
local taken, all = take_back(inc, sub(entry_text, 1, 1), tonumber(ARGV[2]), node, tonumber(ARGV[3]))
after_claims(tonumber(ARGV[4]))

if alive then
  mark_dead(inc, entry_text)
end
if all then
  call('HDEL', DEAD, inc)
end
write_all()
call('PEXPIRE', charged_key(inc), CHARGED_MS)  -- it may have been marked dead before
bound_hints()
return {#taken, all and 1 or 0, put_aside()}
