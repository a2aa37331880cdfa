#!lua
-- Do the common case of enqueue.lua at half the cost: one instance that is due now, without unique key and tags. If a
-- node is idle or watches, the script does nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     node name, kind, priority, retention (-1 default), max_crashes, id, spec
-- Reply    1: added now; -1: an earlier call added it; 0: nothing was done, use enqueue_waking.lua
if has_watchers or call('HLEN', IDLE) > 0 then
  return 0
end
return add_plain(unpack(ARGV)) and 1 or -1
