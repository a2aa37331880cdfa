#!lua
-- As enqueue_one.lua, and wake an idle node that runs the kind. If a node watches, the script does nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     as in enqueue_one.lua
-- Reply    2: added now, or by the same call before, while a node was idle; 1: the same, but no node was idle, so that
--          the caller can try enqueue_one.lua next time; 0: nothing was done, use enqueue.lua
if has_watchers then
  return 0
end
local were_idle = idle_left
wake(ARGV[2], 1)
if add_plain(unpack(ARGV)) then
  write_all()
end
return were_idle > 0 and 2 or 1
