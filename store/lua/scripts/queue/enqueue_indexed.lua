#!lua
-- As enqueue_one.lua, also while sets of kinds have an index.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     as in enqueue_waking.lua
-- Reply    3: added now; 1: the same, but no set has an index, so that the caller can try enqueue_one.lua next time; -3
--          and -1: as 3 and 1, but an earlier call added it; 0: nothing was done, use enqueue_waking.lua
if has_watchers or call('HLEN', IDLE) > 0 then
  return 0
end
local answer = has_indexes and 3 or 1
return add_plain(unpack(ARGV)) and answer or -answer
