#!lua
-- As enqueue_one.lua, for an instance with a key for a gate, see gates.lua: it passes the gate of a key that has room,
-- or waits for a key that is full. In any other case, the script does nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     as in enqueue_waking.lua; then the concurrency of the key, the same in 4 bytes, and the key
-- Reply    1: added now; 0: nothing was done, use enqueue.lua
local kind, priority, id, packed, gate_key = ARGV[1], ARGV[2], ARGV[7], ARGV[10], ARGV[11]
local key, g, n = PREFIX .. 'i:' .. id, PREFIX .. 'g:' .. kind, PREFIX .. 'n:' .. kind
if not limited or has_indexes or has_watchers or call('EXISTS', key, PREFIX .. 'gone:' .. id) > 0 then
  return 0
end
-- The usual enqueue tolerates damaged limits, so an error here is no rule.
local rule, marked = unpack(redis.pcall('HMGET', LIMITS, 'k' .. kind, 'g' .. kind))
local text, own = call('HGET', n, gate_key), tonumber(match(rule or '', '^[01] %d+ (%d+) ') or 0)
local most = own > 0 and own or tonumber(ARGV[9])
local time, place = pack('>d', now), clock[1] .. sub('00000' .. clock[2], -6)
local enters_text = text and #text > 12 and most == 1 and ARGV[9] == '1' and can_hold(text, priority .. ',', 1, place)
if not (rule or marked)
  or text and not enters_text and (#text < 12 or byte(text) ~= 0 or #text > 12 and byte(text, -1) ~= 44) then
  return 0
end
local admitted, _, waiting = unpack_text(GATE_COUNTS, text or NO_COUNTS)
local last, passes = sub(text or '', 13), not enters_text and admitted < most
-- Waiting instances pass first. A better one changes places with the last admitted one, which a lowered key does not
-- know. One that passes wakes a node.
local worst = not (passes or enters_text) and tonumber(sub(match(last, '([^,]+),$') or '', ID_SIZE + 1))
if passes and (waiting > 0 or call('HLEN', IDLE) > 0)
  or not (passes or enters_text) and not (worst and worst <= tonumber(priority)) then
  return 0
end

local queue, index = PREFIX .. 'q:' .. kind, PREFIX .. '2:' .. kind
local target = (passes or enters_text) and queue or PREFIX .. 'w:' .. #kind .. ':' .. kind .. gate_key
-- A key of a wrong type must cause an error before the first write.
call('ZINTERCARD', 3, PREFIX, target, index)
local is_unused = call('HLEN', g) == 0
call('HSETNX', KINDS, kind, '')
call('MSET', key, ARGV[3] .. time .. NO_FENCE .. time .. ARGV[4] .. time .. ARGV[5] .. time .. ARGV[6],
  PREFIX .. 'a:' .. id, ARGV[8])
call('ZADD', index, 0, id)
if passes then
  call('ZADD', queue, priority, place .. id)
  admitted, last = admitted + 1, admitted + 1 + NEAR < most and '' or last .. id .. priority .. ','
  last = #last > MAX_LAST and sub(last, find(last, ',', 1, true) + 1) or last
elseif not enters_text then
  call('ZADD', target, priority, place .. id .. 'w' .. packed)
  waiting = waiting + 1
  if waiting == MANY_WAITING then
    make_table(target)
  end
end
call('HSET', g, unpack(of_table({id, (passes and 'q' or 'w') .. place .. packed .. gate_key}, is_unused)))
local counts = enters_text and held_counts(byte(text, 12) + 1) .. last .. place .. id
  or pack(GATE_COUNTS, admitted, tonumber(ARGV[9]), waiting) .. last
call('HSET', n, unpack(of_table({gate_key, counts}, is_unused)))
return 1
