#!lua
-- Do the common case of enqueue.lua at half the cost: one instance that is due now, without unique key and tags. If a
-- node is idle or watches, the script does nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     node name, kind, priority, retention (-1 default), max_crashes, id, spec
-- Reply    1: added now, or by the same call before; 0: nothing was done, use enqueue.lua
local node, kind, priority, id = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
if call('HLEN', IDLE) > 0 or has_watchers then
  return 0
end
local key, index = record_key(id), index_key(SCHEDULED, kind)
if call('MGET', key)[1] or has_gone and call('EXISTS', gone_key(id)) == 1 then
  return 1
end
check_zsets(ready_key(kind), index)
register_kind(kind)
add_to_queue(id, kind, priority, now, false)
add_pair('ZADD', index, 0, id)
put_string(key, new_record(kind, priority, now, nil, '', ARGV[4], ARGV[5], node))
put_string(spec_key(id), ARGV[7])
write_all()
return 1
