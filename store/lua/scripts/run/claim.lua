#!lua flags=allow-oom
-- Change the best due instances from Scheduled to Processing, in order of priority, due time and id.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, command, request, limit, "1" if the node accepts a suspect, "1" to register as idle, set of
--          kinds, limit of each kind, then pairs of a kind with another limit and that limit (for a small set: pairs
--          for all kinds)
-- Reply    {"dead"}; {"set"} if the incarnation did not register the set and the limit is not 0; or {"ok", now, next
--          due time or 0, set-aside instances, keys and tags, shapes, then per claim: id, spec, number of its shape}.
--          Keys and tags, for each claim that has any: number of the claim, "" or "k" and the key, tags
--          Shapes, what claims have in common: kind, fence, priority, due, attempts, crashes, losses of each
local incarnation, command, request, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local want_suspect, want_idle = ARGV[5] == '1', ARGV[6] == '1'
local owned = owned_key(incarnation)

local set_name, set_kind = ARGV[7], sub(ARGV[7], 1, 1)
local name, registered = unpack(call('HMGET', node_key(incarnation), 'name', 'set'))
if not name then
  return {'dead'}
elseif registered ~= set_name and limit > 0 then
  return {'set'}
end
name = text_or(name, incarnation)

local labels, shapes = {}, {}
local reply, filled = {'ok', now, 0, {}, labels, shapes}, 6

-- Add a claim to the reply. `shape` has the fields of a shape; the number of the shape is kept in `shape`.
local function add_to_reply(id, spec, shape)
  if not shape.number then
    local size = #shapes
    shapes[size + 1], shapes[size + 2], shapes[size + 3] = shape.kind, shape.fence, shape.priority
    shapes[size + 4], shapes[size + 5], shapes[size + 6] = shape.due, shape.attempts, shape.crashes
    shapes[size + 7] = shape.losses
    shape.number = size / 7 + 1
  end
  reply[filled + 1], reply[filled + 2], reply[filled + 3] = id, spec, shape.number
  filled = filled + 3
end

local function add_record_to_reply(id, record, spec)
  add_to_reply(id, spec, record)
  if record.key or record.tags ~= '' then
    local size = #labels
    labels[size + 1] = (filled - 6) / 3
    labels[size + 2], labels[size + 3] = record.key and 'k' .. record.key or '', record.tags
  end
end

local function read(ids)
  local keys, size = {}, 0
  for n = 1, #ids do
    local id = ids[n]
    keys[size + 1], keys[size + 2] = record_key(id), spec_key(id)
    size = size + 2
  end
  return call('MGET', unpack(keys)), keys
end

-- A request that was answered before gets the same claims again, so a lost reply loses no claim. The reply leaves out
-- the claims that have ended since. The answer has one fence if all its claims have the same fence.
local answered = call('HGET', requests_key(incarnation), command)
-- An answer that cannot be read counts as none: the node hands back the claims that it does not know.
if answered and not find(answered, '^[^\n]*\n%d+\n%d+\n') then
  answered = false
end
if answered and sub(answered, 1, #request + 1) == request .. '\n' then
  local at, next_due, ids_text, fences_text = match(answered, '^(%d+)\n(%d+)\n([^\n]*)(.*)$', #request + 2)
  reply[2], reply[3] = tonumber(at), tonumber(next_due)
  local ids, fences, fence = {}, string.gmatch(fences_text, '%d+'), nil
  for from = 1, #ids_text, ID_SIZE do
    ids[#ids + 1] = sub(ids_text, from, from + ID_SIZE - 1)
  end
  if #ids > 0 then
    local found = read(ids)
    for n, id in ipairs(ids) do
      local record = decode(found[2 * n - 1])
      fence = fences() or fence
      -- With another fence, the claim is a later one, which its node runs.
      local held = record and record.state == PROCESSING and digits(record.fence) == fence
      if held and found[2 * n] then
        add_record_to_reply(id, record, found[2 * n])
      end
    end
  end
  return reply
elseif command == 'hint-claim' and answered and request < answered then
  -- The call waited on a connection that its node has left: no node reads the reply.
  return reply
end

call('HLEN', owned)
local default, caps = tonumber(ARGV[8]), {}
for n = 9, #ARGV, 2 do
  caps[ARGV[n]] = tonumber(ARGV[n + 1])
end

local function cap_of(kind)
  return min(caps[kind] or default, limit)
end

-- Before the claim, delayed instances that are due move to the queue of their kind. The move changes only index
-- entries, so a claim that fails afterwards leaves nothing half done.
local fell_due = due_delayed(500)
if #fell_due > 0 then
  if has_indexes then
    local kinds = {}
    for n = 1, #fell_due, 2 do
      kinds[#kinds + 1] = match(fell_due[n], '^-?%d+:(.*)$', ID_SIZE + 2)
    end
    load_kinds(kinds)
  end
  for n = 1, #fell_due, 2 do
    local member = fell_due[n]
    local id, suspect = sub(member, 1, ID_SIZE), sub(member, ID_SIZE + 1, ID_SIZE + 1) == 's'
    local priority, kind = match(member, '^(-?%d+):(.*)$', ID_SIZE + 2)
    if priority then
      add_to_queue(id, kind, priority, tonumber(fell_due[n + 1]), suspect)
    else
      set_aside(id, '', 'unreadable entry among the delayed')
    end
    add('ZREM', DELAYED, member)
  end
  write_all()
  -- If the claiming node runs a kind, the claim itself takes the instances of the kind, so other nodes need no hint.
  for kind in pairs(limit > 0 and newly_due or {}) do
    local own = caps[kind] or set_kind ~= 's' and find(sets_of(kind) or '', set_name, 1, true) and default or 0
    if own > 0 then
      newly_due[kind] = nil
    end
  end
end

local function is_before(one, other)
  return one.score < other.score or one.score == other.score and one.member < other.member
end

-- A source is a queue, or the index of heads. A claim reads a source in pieces, each longer than the last, so that a
-- small claim reads little.
local function advance(source)
  local at = source.at + 2
  if not source.window[at] and not source.ended then
    local piece = source.piece
    source.window = call('ZRANGE', source.key, source.offset, source.offset + piece - 1, 'WITHSCORES')
    source.ended = #source.window < 2 * piece
    source.offset, source.piece, at = source.offset + piece, min(4 * piece, limit), 1
  end
  local score_text = source.window[at + 1]
  source.at, source.member = at, source.window[at]
  if source.score_text ~= score_text then
    source.score_text, source.score = score_text, score_text and tonumber(score_text)
  end
  return source.member
end

local sources, heap = {}, {}

local function open(kind, key, piece)
  local source = {kind = kind, key = key, left = cap_of(kind), piece = min(piece, limit), offset = 0, at = -1, taken = 0,
    window = {}}
  if source.left > 0 and advance(source) then
    source.head = {source.member, source.window[2]}
    sources[#sources + 1] = source
    checked_sizes[key] = true
    push(heap, source, is_before)
    return source
  end
end

-- Kinds whose queues the claim reads one by one. The list is empty if the set of kinds has an index of heads.
local kinds = set_kind == 'u' and limit > 0 and call('SMEMBERS', set_key(set_name)) or {}
if set_kind == 's' then
  for n = 9, #ARGV, 2 do
    kinds[#kinds + 1] = ARGV[n]
  end
end
for _, kind in ipairs(kinds) do
  open(kind, ready_key(kind), #kinds == 1 and limit or 16)
end

local heads = {key = heads_key(set_name, false), offset = 0, at = -1, window = {}, piece = 16,
  ended = set_kind ~= 'x' or limit <= 0}
advance(heads)

-- Return the source with the best next instance, and correct stale entries of the index of heads. Each queue is opened
-- once, and at most MAX_OPENED queues are opened, so that one claim stays short.
local MAX_OPENED = 200
local opened = {}

local function best_source()
  while heads.member and (not heap[1] or is_before(heads, heap[1])) do
    local kind = sub(heads.member, ID_SIZE + 17)
    if #sources == MAX_OPENED then
      return nil
    end
    local source = opened[kind] == nil and open(kind, ready_key(kind), 4)
    local actual = opened[kind] or source and source.member .. kind
    opened[kind] = actual or false
    if actual ~= heads.member and cap_of(kind) > 0 then
      prepare_queue(kind, false, true)
      add('ZREM', heads.key, heads.member)
      if source then
        add_pair('ZADD', heads.key, source.window[2], actual)
      end
    end
    advance(heads)
  end
  return heap[1]
end

-- A claim ends when the specs in the reply have this many bytes, so that a reply stays small.
local MAX_BYTES = 1048576
local ids = {}
local bad, bytes, largest, cut_at = 0, 0, 0, nil
local now_text = digits(now)

-- A suspect is an instance whose earlier nodes died. A claim takes a suspect alone, and only if the suspect comes
-- before all other instances.
local suspect = nil

-- The entry of the last fence is kept: most instances of a batch get the same fence.
local latest_fence, latest_claim, has_fences = nil, nil, false

-- Plan to write a claimed instance.
local function claim(id, key, kind, record, fence)
  ids[#ids + 1] = id
  put_string(key, record)
  move_in_index(kind, id, SCHEDULED, PROCESSING)
  if fence ~= latest_fence then
    has_fences = latest_fence ~= nil
    latest_fence, latest_claim = fence, claim_entry(digits(fence), suspect and 'q' or '')
  end
  add_pair('HSET', owned, id, latest_claim)
  if changes_wanted then
    hint_change(id)
  end
end

-- Claim an instance whose record is not as most are. Return whether it can be claimed.
local function claim_unusual(id, key, kind, record, spec)
  if not record or record.state ~= SCHEDULED or record.kind ~= kind or record.fence == LATEST then
    return false
  end
  record.fence, record.owner, record.attempts = max(record.fence + 1, now), incarnation, record.attempts + 1
  add_transition(record, PROCESSING, name, '')
  claim(id, key, kind, encode(record), record.fence)
  add_record_to_reply(id, record, spec)
  return true
end

-- Read instances that are the next ones of their sources. Claim those that can be claimed and fit into the reply, and
-- set unreadable ones aside.
local function claim_next(next_ids, sources_of)
  local found, keys = read(next_ids)
  for n = 1, #next_ids do
    local id, raw, spec, source, key = next_ids[n], found[2 * n - 1], found[2 * n], sources_of[n], keys[2 * n - 1]
    local size = (raw and #raw or 0) + (spec and #spec or 0)
    if size > largest then
      largest = size
    end
    if cut_at or spec and bytes > 0 and bytes + #spec > MAX_BYTES then
      source.taken = source.taken - 1
      cut_at = cut_at or source.kind
    else
      local usual = claimed(raw, source.kind, incarnation, name)
      local unusual = not usual and decode(raw)
      if usual and spec then
        claim(id, key, source.kind, usual.text, usual.fence)
        add_to_reply(id, spec, usual)
        bytes = bytes + #spec
      elseif spec and claim_unusual(id, key, source.kind, unusual, spec) then
        bytes = bytes + #spec
      else
        bad = bad + 1
        source.left = source.left + 1
        if source.left == 1 and source.member then
          push(heap, source, is_before)
        end
        if unusual and spec and unusual.fence < LATEST then
          -- The record decides: an instance that is in another state or of another kind only leaves this queue.
          note_stray(id, source.kind, 'its entry in a queue is wrong and is removed')
        elseif raw or call('EXISTS', bad_key(id)) == 0 then
          set_aside(id, source.kind, not raw and 'queued without a record' or not spec and 'queued without arguments'
            or 'unreadable record')
        end
      end
    end
  end
end

local function compare_suspect(kind, member, score)
  local head = {kind = kind, member = member, score = tonumber(score), left = 0, taken = 1}
  if cap_of(kind) > 0 and (not suspect or is_before(head, suspect)) then
    suspect = head
  end
end

if want_suspect and limit > 0 and set_kind == 'x' then
  local some = call('ZRANGE', heads_key(set_name, true), 0, 15, 'WITHSCORES')
  for n = 1, #some, 2 do
    compare_suspect(sub(some[n], ID_SIZE + 17), sub(some[n], 1, ID_SIZE + 16), some[n + 1])
  end
elseif want_suspect and limit > 0 then
  for first = 1, #kinds, SLICE do
    local last, keys = min(first + SLICE - 1, #kinds), {}
    for n = first, last do
      keys[n - first + 1] = suspects_key(kinds[n])
    end
    for n = first, call('EXISTS', unpack(keys)) > 0 and last or 0 do
      local head = call('ZRANGE', suspects_key(kinds[n]), 0, 0, 'WITHSCORES')
      if head[1] then
        compare_suspect(kinds[n], head[1], head[2])
      end
    end
  end
end
if suspect then
  local first = best_source()
  if first and is_before(first, suspect) then
    suspect = nil
  else
    claim_next({sub(suspect.member, 17)}, {{kind = suspect.kind, left = 0, taken = 1}})
  end
end

while not suspect and not cut_at and #ids < limit do
  local next_ids, sources_of = {}, {}
  -- Assume that the next instances are as large as the largest so far, so that the script reads few that do not fit.
  local some = largest == 0 and 8 or max(1, min(32, math.floor((MAX_BYTES - bytes) / largest)))
  for n = 1, min(some, limit - #ids) do
    local source = heads.member and best_source() or heap[1]
    if not source then
      break
    end
    next_ids[n], sources_of[n] = sub(source.member, 17), source
    source.left = source.left - 1
    source.taken = source.taken + 1
    if advance(source) and source.left > 0 then
      if heap[2] then
        sink(heap, is_before)
      end
    else
      drop_first(heap, is_before)
    end
  end
  if #next_ids == 0 then
    break
  end
  claim_next(next_ids, sources_of)
end

if #ids > 0 then
  remove_idle(incarnation)
  -- The claiming node needs no hint: work that is left wakes another node.
  woken[incarnation] = true
  local left = cut_at or heads.member and sub(heads.member, ID_SIZE + 17)
  for _, source in ipairs(sources) do
    left = left or source.member and source.kind
  end
  if left then
    newly_due[left] = max(newly_due[left] or 0, 1)
  end
elseif bad == 0 then
  reply[3] = earliest_due() or 0
  if want_idle and limit > 0 then
    local without = {}
    for kind, cap in pairs(caps) do
      if cap <= 0 then
        without[#without + 1] = kind
      end
    end
    table.sort(without)
    add_idle(incarnation, set_name, without)
  end
end
pass_slots_and_wake()
local answer = request .. '\n' .. now_text .. '\n' .. digits(reply[3]) .. '\n' .. table.concat(ids)
for n = 1, has_fences and #ids or min(1, #ids) do
  answer = answer .. '\n' .. digits(shapes[7 * reply[6 + 3 * n] - 5])
end
add_pair('HSET', requests_key(incarnation), command, answer)

-- The taken instances are the first of each queue, so one ZREMRANGEBYRANK per queue removes all of them.
local taken = {}
for _, source in ipairs(sources) do
  if source.taken > 0 and not suspect then
    taken[prepare_queue(source.kind, false, true, source.head)] = source.taken
  end
end
if suspect then
  taken[prepare_queue(suspect.kind, true, true)] = 1
end
for key, count in pairs(taken) do
  call('ZREMRANGEBYRANK', key, 0, count - 1)
end
write_all()
reply[4] = write_set_aside()
return reply
