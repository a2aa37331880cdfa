#!lua
-- The common case of enqueue.lua by itself, at half its cost: one instance that is due now and has no unique key and
-- no tags, while no node is idle or watches.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     node name, kind, priority, retention (-1 default), max_crashes, id, spec
-- Reply    1: done, now or by the same call before; 0: nothing was done, it is not that simple
local node, kind, priority, id = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
if call('HLEN', IDLE) > 0 or has_watchers then
  return 0
end
local key, index = record_key(id), index_key(SCHEDULED, kind)
if call('MGET', key)[1] or has_gone and call('EXISTS', gone_key(id)) == 1 then
  return 1
end
touch_zsets(ready_key(kind), index)
note_kind(kind)
let_in(id, kind, priority, now, false)
add_pair('ZADD', index, 0, id)
set(key, newborn(kind, priority, now, nil, '', ARGV[4], ARGV[5], node))
set(spec_key(id), ARGV[7])
write_all()
return 1
