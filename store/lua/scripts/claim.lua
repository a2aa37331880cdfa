#!lua flags=allow-oom
-- uses: record queue hints aside
-- Scheduled -> Processing for the best due instances, in order of priority, due time and id.
--
-- KEYS[1]  the namespace's prefix
-- ARGV     incarnation, verb, request, limit, "1" if a suspect may be taken, "1" to register as idle,
--          then per kind: kind, most instances of it
-- Reply    {"dead"}, or {"ok", now, next due time or "", what was set aside,
--          then per claim: id, spec, kind, fence, priority, due, attempts, crashes, losses}
local inc, verb, request, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local want_suspect, want_idle = ARGV[5] == '1', ARGV[6] == '1'
local owned = owned_key(inc)

if not call('ZSCORE', LEASES, inc) then
  return {'dead'}
end

local reply = {'ok', digits(now), '', {}}

local function give(id, r, spec)
  local size = #reply
  reply[size + 1], reply[size + 2], reply[size + 3], reply[size + 4] = id, spec, r.kind, digits(r.fence)
  reply[size + 5], reply[size + 6] = r.priority, digits(r.due)
  reply[size + 7], reply[size + 8], reply[size + 9] = r.attempts, r.crashes, r.losses
end

local function read(ids)
  local keys = {}
  for n, id in ipairs(ids) do
    keys[2 * n - 1], keys[2 * n] = record_key(id), spec_key(id)
  end
  return call('MGET', unpack(keys))
end

-- The same request again gives the same claims.
local answered = call('HGET', requests_key(inc), verb)
if answered and sub(answered, 1, #request + 1) == request .. '\n' then
  local at, next_due, ids_text = string.match(answered, '^(%d+)\n(%d*)\n(.*)$', #request + 2)
  reply[2], reply[3] = at, next_due
  local ids = {}
  for from = 1, #ids_text, ID_SIZE do
    ids[#ids + 1] = sub(ids_text, from, from + ID_SIZE - 1)
  end
  if #ids > 0 then
    local fences, found = call('HMGET', owned, unpack(ids)), read(ids)
    for n, id in ipairs(ids) do
      local r = decode(found[2 * n - 1])
      if fences[n] and r and found[2 * n] then
        give(id, r, found[2 * n])
      end
    end
  end
  return reply
end

call('HLEN', owned)
call('LLEN', ASIDE)
call('EXISTS', ASIDE_COUNT)
local name = call('HGET', node_key(inc), 'name') or ''

local caps = {}
for n = 7, #ARGV, 2 do
  caps[ARGV[n]] = tonumber(ARGV[n + 1])
end

-- Delayed instances that fell due go to the queue of their kind first. It only moves index entries, so the claim
-- may fail after it without leaving half a transition.
local moved = {}
local fell_due = call('ZRANGE', DELAYED, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000, 'WITHSCORES')
if #fell_due > 0 then
  for n = 1, #fell_due, 2 do
    local member = fell_due[n]
    local id, suspect = sub(member, 1, ID_SIZE), sub(member, ID_SIZE + 1, ID_SIZE + 1) == 's'
    local priority, kind = string.match(member, '^(-?%d+):(.*)$', ID_SIZE + 2)
    if priority then
      local key = suspect and suspects_key(kind) or ready_key(kind)
      touch_zset(key)
      add_pair(later.zadd, key, priority, ready_member(tonumber(fell_due[n + 1]), id))
      moved[kind] = (moved[kind] or 0) + 1
    end
    add(later.zrem, DELAYED, member)
  end
  send_all('ZADD', later.zadd)
  send_all('ZREM', later.zrem)
  later.zadd, later.zrem = {}, {}
  touched = {}
end

-- One source per kind: a window on the head of its queue, read a piece at a time.
local sources, present_kinds, suspect_keys = {}, {}, {}
for n = 7, #ARGV, 2 do
  local kind, cap = ARGV[n], tonumber(ARGV[n + 1])
  if cap > 0 and limit > 0 then
    present_kinds[#present_kinds + 1] = kind
    suspect_keys[#suspect_keys + 1] = suspects_key(kind)
    local key = ready_key(kind)
    if touch_zset(key) > 0 then
      sources[#sources + 1] = {kind = kind, key = key, left = min(cap, limit), offset = 0, at = 1, window = {}}
    end
  end
end
local piece = #sources > 1 and max(16, math.ceil(limit / #sources)) or limit

local function advance(source)
  source.at = source.at + 2
  local member = source.window[source.at]
  if not member and source.offset < touched[source.key] then
    source.window = call('ZRANGE', source.key, source.offset, source.offset + piece - 1, 'WITHSCORES')
    source.offset = source.offset + piece
    source.at = 1
    member = source.window[1]
  end
  source.member = member
  source.score = member and tonumber(source.window[source.at + 1])
end

for _, source in ipairs(sources) do
  advance(source)
end

local function best_source()
  local best = nil
  for _, source in ipairs(sources) do
    if source.left > 0 and source.member and (not best or source.score < best.score
        or source.score == best.score and source.member < best.member) then
      best = source
    end
  end
  return best
end

local chosen = {}

local function consider(picks)
  local ids = {}
  for n, pick in ipairs(picks) do
    ids[n] = sub(pick.member, 17)
  end
  local found = read(ids)
  for n, pick in ipairs(picks) do
    local id, raw, spec = ids[n], found[2 * n - 1], found[2 * n]
    local r = decode(raw)
    if r and spec and r.state == SCHEDULED and r.kind == pick.kind then
      chosen[#chosen + 1] = {id = id, r = r, spec = spec, member = pick.member, key = pick.key}
    else
      add(later.zrem, pick.key, pick.member)
      local reported = not raw and call('EXISTS', bad_key(id)) == 1
      if not reported then
        set_aside(id, pick.kind, not raw and 'queued without a record' or not spec and 'queued without arguments'
          or not r and 'unreadable record' or 'queued in state ' .. r.state)
      end
      if pick.source then
        pick.source.left = pick.source.left + 1
      end
    end
  end
end

-- A suspect is taken alone, when it comes before everything else.
if want_suspect and #suspect_keys > 0 and call('EXISTS', unpack(suspect_keys)) > 0 then
  repeat
    local first = best_source()
    local head = nil
    for n, key in ipairs(suspect_keys) do
      local skip = later.zrem[key] and #later.zrem[key] or 0
      local found = call('ZRANGE', key, skip, skip, 'WITHSCORES')
      if found[1] then
        touch_zset(key)
        local score = tonumber(found[2])
        if not head or score < head.score or score == head.score and found[1] < head.member then
          head = {member = found[1], score = score, key = key, kind = present_kinds[n]}
        end
      end
    end
    if head and first and (first.score < head.score or first.score == head.score and first.member < head.member) then
      head = nil
    end
    if head then
      consider({head})
    end
  until not head or #chosen > 0
end

local alone = #chosen > 0
while not alone and #chosen < limit do
  local picks = {}
  while #picks < limit - #chosen do
    local source = #sources == 1 and sources[1].left > 0 and sources[1].member and sources[1] or best_source()
    if not source then
      break
    end
    picks[#picks + 1] = {member = source.member, key = source.key, kind = source.kind, source = source}
    source.left = source.left - 1
    advance(source)
  end
  if #picks == 0 then
    break
  end
  consider(picks)
end

local ids = {}
for n, one in ipairs(chosen) do
  local id, r = one.id, one.r
  ids[n] = id
  r.fence = max(r.fence + 1, now)
  r.owner = inc
  r.attempts = r.attempts + 1
  become(r, PROCESSING, name, '')
  set(record_key(id), encode(r))
  add(later.zrem, one.key, one.member)
  reindex(r, id, SCHEDULED)
  add_pair(later.hset, owned, id, digits(r.fence) .. (is_suspect(r) and 'q' or ''))
  changed(id)
  give(id, r, one.spec)
end

if #chosen > 0 then
  add(later.hdel, IDLE, inc)
  for _, source in ipairs(sources) do
    if source.member then
      wake(source.kind, 1)
      break
    end
  end
else
  local head = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  reply[3] = head[2] and digits(tonumber(head[2])) or ''
  if want_idle and limit > 0 then
    add_pair(later.hset, IDLE, inc, '1')
    for _, kind in ipairs(present_kinds) do
      add(later.sadd, idle_key(kind), inc)
    end
  end
end
for kind, count in pairs(moved) do
  if not caps[kind] or caps[kind] == 0 then
    wake(kind, count)
  end
end
add_pair(later.hset, requests_key(inc), verb,
  request .. '\n' .. reply[2] .. '\n' .. reply[3] .. '\n' .. table.concat(ids))

write_all()
send_hints()
reply[4] = put_aside()
return reply
