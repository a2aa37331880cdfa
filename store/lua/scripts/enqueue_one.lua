#!lua
-- The common case of enqueue.lua by itself, at half its cost: one instance that is due now and has no unique key and
-- no tags, while nobody is idle or watches.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     node name, kind, priority, retention (-1 default), max_crashes, id, spec
-- Reply    1: done, now or by the same call before; 0: nothing was done, it is not that simple
local node, kind, priority, id = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
if call('HLEN', IDLE) > 0 or call('ZCARD', CHANGES) > 0 then
  return 0
end
local key, queue, index = record_key(id), ready_key(kind), index_key(SCHEDULED, kind)
if call('MGET', key)[1] then
  return 1
end
call('ZCARD', index)
local is_known = call('SISMEMBER', KINDS, kind) == 1
-- of a wrong type, the queue would fail as the first write
call('ZADD', queue, priority, ready_member(now, id))
call('ZADD', index, 0, id)
call('MSET', key, newborn(kind, priority, now, nil, '', ARGV[4], ARGV[5], node), spec_key(id), ARGV[7])
if not is_known then
  call('SADD', KINDS, kind)
end
return 1
