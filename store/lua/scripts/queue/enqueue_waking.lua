#!lua
-- As enqueue_one.lua, and wake an idle node that runs the kind. If a node watches, the script does nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     as in enqueue_one.lua
-- Reply    2: added now, while a node was idle; 1: the same, but no node was idle, so that the caller can try
--          enqueue_one.lua next time; -2 and -1: as 2 and 1, but an earlier call added it; 0: nothing was done, use
--          enqueue.lua
if has_watchers then
  return 0
end
local answer = idle_left > 0 and 2 or 1
if shared then
  limit_wakes.wake(ARGV[2], 1, wake)
else
  wake(ARGV[2], 1)
end
if not add_plain(unpack(ARGV)) then
  return -answer
end
write_all()
return answer
