#!lua flags=no-writes
-- Read counts that need no scan of instances, some kinds a call. Entries that a later version of peerjob added are left
-- out only among the first 1,000 delayed entries.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     cursor of kinds ("0" to begin), number of kinds to look at
-- Reply    {next cursor ("0" at the end), delayed, live nodes, records set aside, ends to follow up, then per kind: kind,
--          {number per state of SINGLE}}
local delayed = call('ZCARD', DELAYED)
for _, member in ipairs(call('ZRANGE', DELAYED, 0, 999)) do
  delayed = delayed - (is_reserved(member) and 1 or 0)
end
local kinds, cursor = some_kinds(ARGV[1], ARGV[2])
local reply = {cursor, delayed, call('ZCOUNT', LEASES, now, '+inf'), whole_number(call('GET', ASIDE_COUNT)) or 0,
  call('ZCARD', SETTLING)}
for _, kind in ipairs(kinds) do
  local counts = {}
  for n, state in ipairs(SINGLE) do
    counts[n] = call('ZCARD', index_key(state, kind))
  end
  reply[#reply + 1] = kind
  reply[#reply + 1] = counts
end
return reply
