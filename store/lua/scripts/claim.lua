#!lua flags=allow-oom
-- Scheduled -> Processing for the best due instances, in order of priority, due time and id.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, verb, request, limit, "1" if a suspect may be taken, "1" to register as idle,
--          then per kind: kind, most instances of it
-- Reply    {"dead"}, or {"ok", now, next due time or 0, what was set aside,
--          then per claim: id, spec, kind, fence, priority, due, attempts, crashes, losses}
local inc, verb, request, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local want_suspect, want_idle = ARGV[5] == '1', ARGV[6] == '1'
local owned = owned_key(inc)

if not call('ZSCORE', LEASES, inc) then
  return {'dead'}
end

local reply, filled = {'ok', now, 0, {}}, 4

local function give(id, r, spec)
  reply[filled + 1], reply[filled + 2], reply[filled + 3], reply[filled + 4] = id, spec, r.kind, r.fence
  reply[filled + 5], reply[filled + 6], reply[filled + 7] = r.priority, r.due, r.attempts
  reply[filled + 8], reply[filled + 9] = r.crashes, r.losses
  filled = filled + 9
end

local function read(ids)
  local keys = {}
  for n, id in ipairs(ids) do
    keys[2 * n - 1], keys[2 * n] = record_key(id), spec_key(id)
  end
  return call('MGET', unpack(keys)), keys
end

-- The same request again gives the same claims.
local answered = call('HGET', requests_key(inc), verb)
if answered and sub(answered, 1, #request + 1) == request .. '\n' then
  local at, next_due, ids_text = match(answered, '^(%d+)\n(%d+)\n(.*)$', #request + 2)
  reply[2], reply[3] = tonumber(at), tonumber(next_due)
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
local name = call('HGET', node_key(inc), 'name') or ''
local caps, kinds, queues, suspect_queues = {}, {}, {}, {}
for n = 7, #ARGV, 2 do
  local kind, cap = ARGV[n], tonumber(ARGV[n + 1])
  caps[kind] = cap
  if cap > 0 and limit > 0 then
    kinds[#kinds + 1] = kind
    queues[#queues + 1] = ready_key(kind)
    suspect_queues[#suspect_queues + 1] = suspects_key(kind)
  end
end

-- Delayed instances that fell due go to the queue of their kind first. This only moves index entries, so that the
-- claim may fail after it and leave nothing half done.
local moved = {}
local fell_due = due_delayed(1000)
if #fell_due > 0 then
  for n = 1, #fell_due, 2 do
    local member = fell_due[n]
    local id, suspect = sub(member, 1, ID_SIZE), sub(member, ID_SIZE + 1, ID_SIZE + 1) == 's'
    local priority, kind = match(member, '^(-?%d+):(.*)$', ID_SIZE + 2)
    if priority then
      local key = suspect and suspects_key(kind) or ready_key(kind)
      call('ZCARD', key)
      add_pair('ZADD', key, priority, ready_member(tonumber(fell_due[n + 1]), id))
      moved[kind] = (moved[kind] or 0) + 1
    else
      set_aside(id, '', 'unreadable entry among the delayed')
    end
    add('ZREM', DELAYED, member)
  end
  write_all()
  later = {}
end

-- One source per kind that has something: a window on the head of its queue, read a piece at a time.
local sources = {}
for n, kind in ipairs(kinds) do
  local size = call('ZCARD', queues[n])
  if size > 0 then
    sources[#sources + 1] = {kind = kind, key = queues[n], size = size, left = min(caps[kind], limit), offset = 0,
      at = -1, taken = 0, window = {}}
  end
end
local piece = #sources > 1 and max(16, math.ceil(limit / #sources)) or limit

local function advance(source)
  local at = source.at + 2
  local member = source.window[at]
  if not member and source.offset < source.size then
    source.window = call('ZRANGE', source.key, source.offset, source.offset + piece - 1, 'WITHSCORES')
    source.offset = source.offset + piece
    at = 1
    member = source.window[1]
  end
  source.at = at
  source.member = member
  source.score = member and #sources > 1 and tonumber(source.window[at + 1])
end

for _, source in ipairs(sources) do
  advance(source)
end

local function comes_first(score, member, than_score, than_member)
  return score < than_score or score == than_score and member < than_member
end

local function best_source()
  local best = nil
  for _, source in ipairs(sources) do
    if source.left > 0 and source.member
      and (not best or comes_first(source.score, source.member, best.score, best.member)) then
      best = source
    end
  end
  return best
end

-- Specs are read some at a time, and a claim ends when it has this many bytes of them.
local SOME, MOST_BYTES = 32, 1048576
local ids, records, specs, record_keys = {}, {}, {}, {}
local bad, bytes, cut_at = 0, 0, nil

-- Read the instances behind these members of queues, and keep those that can be claimed and carried.
local function consider(members, their)
  local found_ids = {}
  for n, member in ipairs(members) do
    found_ids[n] = sub(member, 17)
  end
  local found, keys = read(found_ids)
  for n, id in ipairs(found_ids) do
    local raw, spec, source = found[2 * n - 1], found[2 * n], their[n]
    local r = decode(raw)
    if cut_at or spec and bytes > 0 and bytes + #spec > MOST_BYTES then
      source.taken = source.taken - 1
      cut_at = cut_at or source.kind
    elseif r and spec and r.state == SCHEDULED and r.kind == source.kind then
      bytes = bytes + #spec
      local size = #ids + 1
      ids[size], records[size], specs[size], record_keys[size] = id, r, spec, keys[2 * n - 1]
    else
      bad = bad + 1
      source.left = source.left + 1
      if raw or call('EXISTS', bad_key(id)) == 0 then
        set_aside(id, source.kind, not raw and 'queued without a record' or not spec and 'queued without arguments'
          or not r and 'unreadable record' or 'queued in state ' .. r.state)
      end
    end
  end
end

-- A suspect is taken alone, and only when it comes before everything else.
local suspect_source = nil
if want_suspect and #kinds > 0 and call('EXISTS', unpack(suspect_queues)) > 0 then
  local first = best_source()
  for n, key in ipairs(suspect_queues) do
    local head = call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if head[1] then
      local score = tonumber(head[2])
      local against = suspect_source or first
      local against_score = against and (against.score or tonumber(against.window[against.at + 1]))
      if not against or comes_first(score, head[1], against_score, against.member) then
        suspect_source = {kind = kinds[n], key = key, left = 0, taken = 1, member = head[1], score = score}
      end
    end
  end
  if suspect_source then
    consider({suspect_source.member}, {suspect_source})
  end
end

while not suspect_source and not cut_at and #ids < limit do
  local members, their = {}, {}
  for n = 1, min(SOME, limit - #ids) do
    local source = #sources == 1 and sources[1] or best_source()
    if not source or not source.member or source.left == 0 then
      break
    end
    members[n], their[n] = source.member, source
    source.left = source.left - 1
    source.taken = source.taken + 1
    advance(source)
  end
  if #members == 0 then
    break
  end
  consider(members, their)
end

local now_text = digits(now)
for n, id in ipairs(ids) do
  local r = records[n]
  local fence = max(r.fence + 1, now)
  r.fence = fence
  r.owner = inc
  r.attempts = r.attempts + 1
  become(r, PROCESSING, name, '')
  set(record_keys[n], encode(r))
  reindex(r, id, SCHEDULED)
  add_pair('HSET', owned, id, claim_entry(fence == now and now_text or digits(fence), suspect_source and 'q' or ''))
  changed(id)
  give(id, r, specs[n])
end

if #ids > 0 then
  no_longer_idle(inc)
  local left = cut_at
  for _, source in ipairs(sources) do
    left = left or source.member and source.kind
  end
  if left then
    wake(left, 1)
  end
elseif bad == 0 then
  reply[3] = earliest_due() or 0
  if want_idle and limit > 0 then
    go_idle(inc, kinds)
  end
end
settle_slots()
for kind, count in pairs(moved) do
  if not caps[kind] or caps[kind] == 0 then
    wake(kind, count)
  end
end
add_pair('HSET', requests_key(inc), verb,
  request .. '\n' .. now_text .. '\n' .. digits(reply[3]) .. '\n' .. table.concat(ids))

-- what was taken is the head of its queue, one after the other
for _, source in ipairs(sources) do
  if source.taken > 0 and not suspect_source then
    call('ZREMRANGEBYRANK', source.key, 0, source.taken - 1)
  end
end
if suspect_source then
  call('ZREM', suspect_source.key, suspect_source.member)
end
write_all()
bound_hints()
reply[4] = put_aside()
return reply
