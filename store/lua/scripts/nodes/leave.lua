#!lua flags=allow-oom
-- End the lease of a stopping node, and hand back up to `limit` claims of the node without counting an attempt. The
-- caller repeats the script until no claim is left.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, limit, default retention, limit of final instances per kind
-- Reply    {number of claims handed back, 1 if none is left, set-aside instances}
local incarnation = ARGV[1]
local alive, entry_text = call('ZSCORE', LEASES, incarnation), call('HGET', DEAD, incarnation)
if not alive and not entry_text then
  return {0, 1, {}}
end
local node = text_or(call('HGET', node_key(incarnation), 'name') or sub(entry_text or '', 3), incarnation)
if alive then
  entry_text = ending(incarnation, true)
end
-- The stopping node must not get a hint about work, because the node claims nothing more.
woken[incarnation] = true
local taken, all = take_back(incarnation, sub(entry_text, 1, 1), tonumber(ARGV[2]), node, tonumber(ARGV[3]))
after_claims(tonumber(ARGV[4]))

if alive then
  mark_dead(incarnation, entry_text)
end
if all then
  call('HDEL', DEAD, incarnation)
end
write_all()
if settle then
  settle(MAX_SETTLED, tonumber(ARGV[3]))
end
-- If the incarnation was marked dead before, a set of charged crashes exists and must expire.
call('PEXPIRE', charged_key(incarnation), CHARGED_MS)
return {#taken, all and 1 or 0, write_set_aside()}
