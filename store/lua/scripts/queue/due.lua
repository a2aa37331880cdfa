#!lua flags=no-writes
-- Count the instances that are due and wait for a claim. Instances that fell due stay among the delayed ones until a
-- claim moves them, so the script also counts up to 1,000 of those.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
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
