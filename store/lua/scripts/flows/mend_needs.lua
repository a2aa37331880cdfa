#!lua flags=allow-oom
-- Settle ends that nothing is to settle, and end needs that no end can find any more. The edges of an instance that
-- waits only go. So if it has more needs than were counted before, edges are lost.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     default retention; number of ends; per end: child, its state or 0; per instance: id, fence, number of its edges
--          at most, and id and state of the child that did not complete and may be the need, or "" and 0
-- Reply    {number of mends; set-aside instances}
local MAX_ENDS = 1000
local retention, ends, mended, known = tonumber(ARGV[1]), tonumber(ARGV[2]), 0, {}
if not settle then
  return {0, {}}
end
for n = 3, 2 + 2 * ends, 2 do
  if call('EXISTS', edges_key(ARGV[n])) == 1 and not call('ZSCORE', SETTLING, 'e' .. ARGV[n] .. ARGV[n + 1]) then
    mended = mended + 1
    settle_later('e' .. ARGV[n] .. ARGV[n + 1])
    count_stray(ARGV[n], '', 'nothing would have settled its end')
  end
end

-- A need of a child that was over before has an entry in SETTLING instead of an edge.
local is_known = call('ZCARD', SETTLING) <= MAX_ENDS
for _, text in ipairs(is_known and call('ZRANGE', SETTLING, 0, -1) or {}) do
  local id = sub(text, 1, 1) == 'f' and sub(text, 2, 37)
  if id then
    known[id] = (known[id] or 0) + 1
  end
end

local function mend(id, fence, edges, failed, state)
  local record = decode(call('MGET', record_key(id))[1])
  local thread = record and is_waiting(record) and needs_end_wait(record.thread) and record.thread
  local left = edges + (known[id] or 0)
  -- A parent that has ended lets go the need first, and then cancels the instance.
  local is_let_go = thread and call('ZSCORE', SETTLING, 'k' .. thread.parent)
  if not thread or is_let_go or digits(record.fence) ~= fence or thread.needs <= left then
    return
  end
  mended = mended + 1
  count_stray(id, record.kind, 'it needs ' .. thread.needs .. ', and the end of ' .. left .. ' can come')
  if failed ~= '' then
    settle_later('f' .. id .. failed .. state .. ' ' .. fence)
    return
  end
  thread.needs = left
  if left == 0 then
    enter(record, id)
  else
    put_thread(record)
  end
  put_string(record_key(id), encode(record))
  hint_change(id)
end

for n = 3 + 2 * ends, is_known and #ARGV or 0, 5 do
  mend(ARGV[n], ARGV[n + 1], tonumber(ARGV[n + 2]), ARGV[n + 3], ARGV[n + 4])
end
pass_slots_and_wake()
write_all()
settle(MAX_SETTLED, retention, true)
return {mended, write_set_aside()}
