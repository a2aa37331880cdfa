#!lua
-- As enqueue_alike.lua, for instances with keys for a gate, see gates.lua: each passes the gate of its key, or waits.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind; priority; the record in four parts, as in enqueue_waking.lua; the concurrency of the keys, the same in 4 bytes;
--          then per instance: id, spec, key. Each id is there once
-- Reply    1: all added now; 0: nothing was done, use enqueue.lua
local kind, priority, concurrency = ARGV[1], ARGV[2], tonumber(ARGV[7])
if not limited or call('EXISTS', INDEXED, WATCHING, IDLE) > 0 then
  return 0
end
local queue, index, g, n = PREFIX .. 'q:' .. kind, PREFIX .. '2:' .. kind, PREFIX .. 'g:' .. kind, PREFIX .. 'n:' .. kind
local time, place = pack('>d', now), clock[1] .. sub('00000' .. clock[2], -6)
local record = ARGV[3] .. time .. NO_FENCE .. time .. ARGV[4] .. time .. ARGV[5] .. time .. ARGV[6]
local record_begin, spec_begin = PREFIX .. 'i:', PREFIX .. 'a:'
local stored, strings, indexed, ids, keys, count, pair, quad = {}, {}, {}, {}, {}, 0, 0, 0
for at = 9, #ARGV, 3 do
  local id = ARGV[at]
  local key = record_begin .. id
  count = count + 1
  ids[count], keys[count], stored[count] = id, ARGV[at + 2], key
  strings[quad + 1], strings[quad + 2], strings[quad + 3], strings[quad + 4] = key, record, spec_begin .. id, ARGV[at + 1]
  indexed[pair + 1], indexed[pair + 2] = '0', id
  pair, quad = pair + 2, quad + 4
end
for at = 1, has_gone and count or 0 do
  stored[count + at] = PREFIX .. 'gone:' .. ids[at]
end
-- The usual enqueue tolerates damaged limits, so an error here is no rule.
local rule, marked = unpack(redis.pcall('HMGET', LIMITS, 'k' .. kind, 'g' .. kind))
if not (rule or marked) or call('EXISTS', unpack(stored)) > 0 then
  return 0
end
local own = tonumber(match(rule or '', '^[01] %d+ (%d+) ') or 0)
local counts, entries, queued, waits, many, has_no_keys, unusual = come_to_keys(n, ids, keys, priority, place, ARGV[8],
  concurrency, own > 0 and own or concurrency, false)
if unusual then
  return 0
end
-- A key of a wrong type must cause an error before the first write.
local sets, is_unused = {PREFIX, queue, index}, call('HLEN', g) == 0
for key in pairs(waits) do
  sets[#sets + 1] = PREFIX .. 'w:' .. #kind .. ':' .. kind .. key
end
call('ZINTERCARD', #sets, unpack(sets))
call('HSETNX', KINDS, kind, '')
for key, list in pairs(waits) do
  local set = PREFIX .. 'w:' .. #kind .. ':' .. kind .. key
  call('ZADD', set, unpack(list))
  if many[key] then
    make_table(set)
  end
end
call('MSET', unpack(strings))
call('ZADD', index, unpack(indexed))
call('HSET', g, unpack(of_table(entries, is_unused)))
call('HSET', n, unpack(of_table(counts, has_no_keys and call('HLEN', n) == 0)))
if queued[1] then
  call('ZADD', queue, unpack(queued))
end
return 1
