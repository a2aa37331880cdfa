#!lua flags=no-writes
-- Numbers that need no scan.
--
-- KEYS     the namespace's prefix, its layout
-- Reply    {delayed, living nodes, records set aside, then per kind: kind, {instances per final and active state}}
local reply = {call('ZCARD', DELAYED), call('ZCOUNT', LEASES, now, '+inf'), tonumber(call('GET', ASIDE_COUNT) or 0)}
for _, kind in ipairs(call('SMEMBERS', KINDS)) do
  local counts = {}
  for n, state in ipairs(SINGLE) do
    counts[n] = call('ZCARD', index_key(state, kind))
  end
  reply[#reply + 1] = kind
  reply[#reply + 1] = counts
end
return reply
