#!lua flags=allow-oom
-- Write a slot of the activity, unless another node has added to this slot. An earlier slot at the same position is
-- replaced. The nodes add up the counts, because a script would occupy the server for milliseconds.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     position of the slot in the ring, expected head of the stored slot, the slot with its new head; a head has
--          the number of the slot and the number of writes, in 4 bytes each
-- Reply    "" if the slot is written; else the stored slot
local stored = call('HGET', ACTIVITY, ARGV[1]) or ''
if #stored >= 8 and sub(stored, 1, 4) == sub(ARGV[2], 1, 4) and sub(stored, 1, 8) ~= ARGV[2] then
  return stored
end
call('HSET', ACTIVITY, ARGV[1], ARGV[3])
return ''
