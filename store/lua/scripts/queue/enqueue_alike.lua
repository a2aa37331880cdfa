#!lua
-- As enqueue_one.lua, for a batch of instances that differ only in id and spec. It also wakes idle nodes.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind; priority; the record in four parts, as in enqueue_waking.lua; then per instance: id, spec. Each id is
--          there once
-- Reply    1: all added now; 0: nothing was done, use enqueue.lua
local kind, priority = ARGV[1], ARGV[2]
local stored_layout, has_marks = unpack(call('MGET', KEYS[2], PREFIX .. 'gone'))
local has_idle = call('EXISTS', INDEXED, WATCHING, IDLE) > 0
if has_idle and call('EXISTS', INDEXED, WATCHING) > 0
  or stored_layout ~= LAYOUT and stored_layout ~= LIMITS_LAYOUT and stored_layout ~= FLOWS_LAYOUT then
  return 0
end
local queue, index, time = PREFIX .. 'q:' .. kind, PREFIX .. '2:' .. kind, pack('>d', now)
local record = ARGV[3] .. time .. NO_FENCE .. time .. ARGV[4] .. time .. ARGV[5] .. time .. ARGV[6]
local record_begin, spec_begin, due = PREFIX .. 'i:', PREFIX .. 'a:', clock[1] .. sub('00000' .. clock[2], -6)
local keys, strings, queued, indexed, count, pair, quad = {}, {}, {}, {}, 0, 0, 0
for at = 7, #ARGV, 2 do
  local id = ARGV[at]
  local key = record_begin .. id
  count = count + 1
  keys[count] = key
  if has_marks then
    count = count + 1
    keys[count] = PREFIX .. 'gone:' .. id
  end
  strings[quad + 1], strings[quad + 2], strings[quad + 3], strings[quad + 4] = key, record, spec_begin .. id, ARGV[at + 1]
  queued[pair + 1], queued[pair + 2], indexed[pair + 1], indexed[pair + 2] = priority, due .. id, '0', id
  pair, quad = pair + 2, quad + 4
end
if call('EXISTS', unpack(keys)) > 0 then
  return 0
end
-- As check_zsets in queue.lua does: a key of a wrong type must cause an error before the first write.
call('ZINTERCARD', 3, PREFIX, queue, index)
local function write_batch()
  call('HSETNX', KINDS, kind, '')
  call('MSET', unpack(strings))
  call('ZADD', queue, unpack(queued))
  call('ZADD', index, unpack(indexed))
end
if not has_idle then
  write_batch()
  return 1
end

-- The rest needs further definitions.
-- Most nodes are idle only at the first batch, unless they run other kinds.
if shared then
  wake_in_limits(kind, pair / 2, wake)
else
  wake(kind, pair / 2)
end
write_batch()
write_all()
return 1
