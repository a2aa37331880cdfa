#!lua
-- Do the common case of enqueue.lua at half the cost: one instance that is due now, without unique key and tags. If a
-- node is idle or watches, the script does nothing. There is one instance, so the writes need no plan: they follow the
-- last check at once.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     node name, kind, priority, retention (-1 default), max_crashes, id, spec
-- Reply    1: added now, or by the same call before; 0: nothing was done, use enqueue.lua
local node, kind, priority, id = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
if has_watchers or call('HLEN', IDLE) > 0 then
  return 0
end
local key, queue, index = record_key(id), ready_key(kind), index_key(SCHEDULED, kind)
if call('MGET', key)[1] or has_gone and call('EXISTS', gone_key(id)) == 1 then
  return 1
end
local head_indexes, head = {}, nil
if has_indexes then
  head_indexes, head = head_indexes_of(kind, false), call('ZRANGE', queue, 0, 0, 'WITHSCORES')
end
-- As check_zsets in queue.lua does: a key of a wrong type must cause an error before the first write.
call('ZINTERCARD', 3, PREFIX, queue, index)
call('HSETNX', KINDS, kind, '')
call('MSET', key, new_record(kind, priority, now, nil, '', ARGV[4], ARGV[5], node), spec_key(id), ARGV[7])
local member = ready_member(now, id)
call('ZADD', queue, priority, member)
call('ZADD', index, 0, id)
if head_indexes[1] and precedes_head(member, priority, head) then
  for n = 1, #head_indexes do
    if head[1] then
      call('ZREM', head_indexes[n], head[1] .. kind)
    end
    call('ZADD', head_indexes[n], priority, member .. kind)
  end
end
return 1
