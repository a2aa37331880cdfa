#!lua flags=no-writes
-- How many instances are due and wait to be claimed.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     cursor of kinds ("0" to begin), how many kinds to look at, kinds; none: all
-- Reply    {next cursor ("0" at the end), then per kind: kind, instances}
--
-- What fell due goes to the queue of its kind with the next claim. Where no node claims it stays among the delayed, and is
-- looked for there, as far as one claim would move.
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
