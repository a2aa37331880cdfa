#!lua flags=no-writes
-- The number of instances that are due and wait to be claimed. The next claim moves instances that fell due to the
-- queue of their kind. If no node claims, they stay among the delayed instances, so this script counts those too, up
-- to a limit.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     cursor of kinds ("0" to begin), number of kinds to look at, kinds (none: all)
-- Reply    {next cursor ("0" at the end), then per kind: kind, number}
local fell_due = {}
local found = due_delayed(1000)
for n = 1, #found, 2 do
  local kind = match(found[n], '^-?%d+:(.*)$', ID_SIZE + 2)
  if kind then
    fell_due[kind] = (fell_due[kind] or 0) + 1
  end
end
local kinds, cursor = {unpack(ARGV, 3)}, '0'
if #kinds == 0 then
  kinds, cursor = some_kinds(ARGV[1], ARGV[2])
end
local reply = {cursor}
for _, kind in ipairs(kinds) do
  reply[#reply + 1] = kind
  reply[#reply + 1] = call('ZCARD', ready_key(kind)) + call('ZCARD', suspects_key(kind)) + (fell_due[kind] or 0)
end
return reply
