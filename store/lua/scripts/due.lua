#!lua flags=no-writes
-- How many instances are due and wait to be claimed.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     kinds; none: all
-- Reply    per kind: kind, instances
--
-- What fell due goes to the queue of its kind with the next claim. Where nobody claims it stays among the delayed, and is
-- looked for there, as far as one claim would move.
local fell_due = {}
local found = due_delayed(1000)
for n = 1, #found, 2 do
  local kind = match(found[n], '^-?%d+:(.*)$', ID_SIZE + 2)
  if kind then
    fell_due[kind] = (fell_due[kind] or 0) + 1
  end
end
local reply = {}
for _, kind in ipairs(#ARGV > 0 and ARGV or call('SMEMBERS', KINDS)) do
  reply[#reply + 1] = kind
  reply[#reply + 1] = call('ZCARD', ready_key(kind)) + call('ZCARD', suspects_key(kind)) + (fell_due[kind] or 0)
end
return reply
