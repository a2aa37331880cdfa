#!lua
-- As enqueue_one.lua, and wake an idle node that runs the kind. If a node watches, the script does nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind; priority; the record of the instance in four parts, between which its time belongs, as `plain_record` in
--          arrivals.py makes them; id; spec
-- Reply    2: added now, while a node was idle; 1 or 3: the same, but no node was idle, so that the caller can try
--          enqueue_one.lua (1) or enqueue_indexed.lua (3) next time; -1, -2 and -3: as 1, 2 and 3, but an earlier call
--          added it; 0: nothing was done, use enqueue.lua
if has_watchers then
  return 0
end
local answer = idle_left > 0 and 2 or has_indexes and 3 or 1
if shared then
  wake_in_limits(ARGV[1], 1, wake)
else
  wake(ARGV[1], 1)
end
if not add_plain(unpack(ARGV)) then
  return -answer
end
write_all()
return answer
