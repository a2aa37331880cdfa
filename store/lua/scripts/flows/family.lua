#!lua flags=no-writes
-- Look at some children of a parent, and count the needs of instances in the edges of these children.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     parent; child and edge after which to go on ("" and "" to begin); number of children and edges to look at;
--          "1" to look for an active child; per instance: id and fence without a space
-- Reply    {child and edge after which to go on ("" and "" at the end); 1 if a child is unknown, else 0; 1 if a child can
--          end without the end of another one (if asked), else 0; number of children that are over; id and state of one of
--          them that did not complete, or "" and 0; list of children that are over and have edges that nothing is to
--          settle, and the state of each; per instance: number of its edges}
local parent, child, edge, left = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local counts, lost, is_unknown, is_active, over, failed, failed_state = {}, {}, 0, 0, 0, '', 0
for n = 6, #ARGV do
  counts[ARGV[n]] = 0
end

-- Return the final state of a child that is over, 0 if it is gone; nil if it is not over.
local function over_state(id)
  -- The second and the third byte of a record are its state and its flags.
  local head = redis.pcall('GETRANGE', record_key(id), 1, 2)
  local state, flags = byte(type(head) == 'string' and head or '', 1, 2)
  if not state then
    is_unknown = call('EXISTS', bad_key(id)) == 0 and 1 or is_unknown
    return 0
  elseif is_final(state) and not present(flags or 0, RELEASING) then
    return state
  end
  if ARGV[5] ~= '1' or is_active == 1 then
    return nil
  end
  local record = state == SCHEDULED and decode(call('MGET', record_key(id))[1])
  if not (record and record.fence == 0 and is_waiting(record) and needs_end_wait(record.thread)) then
    is_active = 1
  end
  return nil
end

local from = child == '' and '-' or (edge == '' and '(' or '[') .. child
for _, id in ipairs(call('ZRANGE', children_key(parent), from, '+', 'BYLEX', 'LIMIT', 0, left)) do
  if left <= 0 then
    break
  end
  local state = over_state(id)
  local members = call('ZRANGE', edges_key(id), edge == '' and '-' or '(' .. edge, '+', 'BYLEX', 'LIMIT', 0, left)
  over = over + (state and edge == '' and 1 or 0)
  if state and state ~= COMPLETED then
    failed, failed_state = id, state
  end
  if state and members[1] and not call('ZSCORE', SETTLING, 'e' .. id .. state) then
    lost[#lost + 1], lost[#lost + 2] = id, state
  end
  for _, member in ipairs(members) do
    local waiter = sub(member, 1, 36) .. sub(member, 38)
    counts[waiter] = counts[waiter] and counts[waiter] + 1
  end
  child, edge, left = id, #members == left and members[left] or '', left - 1 - #members
end
if left > 0 then
  child, edge = '', ''
end
local reply = {child, edge, is_unknown, is_active, over, failed, failed_state, lost}
for n = 6, #ARGV do
  reply[n + 3] = counts[ARGV[n]]
end
return reply
