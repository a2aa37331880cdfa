#!lua
-- Do the common case of enqueue.lua at a third of its cost: one instance that is due now, without unique key and tags,
-- while no node is idle or watches, and no set of kinds has an index. In any other case, the script does nothing. To be
-- cheap, it defines no functions, and compares the layout itself.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     as in enqueue_waking.lua
-- Reply    1: added now; 0: nothing was done, use enqueue_waking.lua
-- The keys are those of keys.lua: the record, the mark of a removed instance, the queue, the index of SCHEDULED, and
-- the spec.
local kind, priority, id = ARGV[1], ARGV[2], ARGV[7]
local key, stored_layout = PREFIX .. 'i:' .. id, call('MGET', KEYS[2])[1]
if call('EXISTS', INDEXED, WATCHING, IDLE, key, PREFIX .. 'gone:' .. id) > 0
  or stored_layout ~= LAYOUT and stored_layout ~= LIMITS_LAYOUT and stored_layout ~= FLOWS_LAYOUT then
  return 0
end
local queue, index = PREFIX .. 'q:' .. kind, PREFIX .. '2:' .. kind
-- As check_zsets in queue.lua does: a key of a wrong type must cause an error before the first write.
call('ZINTERCARD', 3, PREFIX, queue, index)
call('HSETNX', KINDS, kind, '')
local time = pack('>d', now)
call('MSET', key, ARGV[3] .. time .. NO_FENCE .. time .. ARGV[4] .. time .. ARGV[5] .. time .. ARGV[6],
  PREFIX .. 'a:' .. id, ARGV[8])
call('ZADD', queue, priority, clock[1] .. sub('00000' .. clock[2], -6) .. id)
call('ZADD', index, 0, id)
return 1
