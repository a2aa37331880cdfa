#!lua flags=allow-oom
-- Change the best due instances from Scheduled to Processing, in order of priority, due time and id.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, command ("turn-again": that of a turn, which found nothing before the outcomes of the turn were
--          written), request, limit, "1" if the node accepts a suspect, "1" to register as idle, set of
--          kinds, limit of each kind, then pairs of a kind with another limit and that limit (for a small set: pairs
--          for all kinds)
-- Reply    {"dead"}; {"set"} if the incarnation did not register the set and the limit is not 0; or {"ok", now, next
--          due time or 0, set-aside instances, keys and tags, shapes, then per claim: id, spec, number of its shape}.
--          After the set-aside instances, "missing" if limits of the kinds are missing
--          Keys and tags, for each shape that has any or a thread: its number, "" or "k" and the key, tags, "" or a tail
--          with the thread
--          Shapes, what claims have in common: kind, fence, priority, due, attempts, crashes, losses of each
--
-- A claim of a small set that finds nothing, or the only instance that is due, ends early: it makes few definitions. The
-- parts of any other claim are in lib/claim_repeat.lua, lib/claim_due.lua, lib/claim_select.lua, lib/claim_take.lua and
-- lib/claim_end.lua.
local incarnation, command, request = ARGV[1], ARGV[2], ARGV[3]
-- `caps` are the limits of the kinds in `named`. The last fields change while the claim takes: how many instances and
-- bytes of specs it has, the size of the largest instance that it read, how many it refused, and the kind of the first
-- one that does not fit into the reply.
local claim = {incarnation = incarnation, limit = tonumber(ARGV[4]), wants_suspect = ARGV[5] == '1', set = ARGV[7],
  letter = sub(ARGV[7], 1, 1), default = tonumber(ARGV[8]), owned = owned_key(incarnation), caps = {}, named = {},
  count = 0, bytes = 0, largest = 0, refused = 0, cut_at = nil}
local wants_idle, looks_again = ARGV[6] == '1' and claim.limit > 0, command == 'turn-again'
command = looks_again and 'turn-claim' or command
local node_name, registered = unpack(call('HMGET', node_key(incarnation), 'name', 'set'))
if not node_name then
  return {'dead'}
elseif registered ~= claim.set and claim.limit > 0 then
  return {'set'}
end
claim.name = text_or(node_name, incarnation)
for n = 9, #ARGV, 2 do
  -- Each node runs flows; no namespace below layout 4 has any, so a claim of one other kind stays a claim of one.
  if ARGV[n] ~= FLOW_KIND or layout == FLOWS_LAYOUT then
    claim.named[#claim.named + 1] = ARGV[n]
  end
  claim.caps[ARGV[n]] = tonumber(ARGV[n + 1])
end
local requests = requests_key(incarnation)
local answered = call('HGET', requests, command)

-- 1. Look for what is due, if the set is small, each of its kinds has room, and the request is new.
local is_short = claim.letter == 's' and wants_idle and not looks_again and (not shared or command == 'hint-claim')
  and not (answered and (sub(answered, 1, #request + 1) == request .. '\n' or command == 'hint-claim' and request < answered))
local queues, next_due = {}, is_short and earliest_due()
for _, kind in ipairs(is_short and claim.named or {}) do
  queues[#queues + 1] = ready_key(kind)
  queues[#queues + 1] = claim.wants_suspect and suspects_key(kind) or nil
  is_short = is_short and claim.caps[kind] > 0
end
is_short = is_short and not (next_due and next_due <= now)
local filled = is_short and queues[1] and call('EXISTS', unpack(queues)) or 0

-- 2. If there is nothing, the node waits for a hint.
if is_short and filled == 0 then
  local idle = call('HGET', IDLE, incarnation)
  if idle ~= claim.set then
    if idle then
      call('SREM', idle_key(sub(idle, 1, SET_SIZE)), incarnation)
    end
    call('HSET', IDLE, incarnation, claim.set)
    call('SADD', idle_key(claim.set), incarnation)
  end
  call('HSET', requests, command, kept_answer(request, digits(next_due or 0), '', ''))
  return {'ok', now, next_due or 0, {}, {}, {}}
end

-- The rest needs further definitions.
-- 3. Take the only instance, unless its kind is paused, full, or has a rate, or its record is unusual. Indexes of heads
-- and watchers are for the usual claim, too.
local only_kind, member = nil, nil
for _, kind in ipairs(is_short and filled == 1 and not has_indexes and not has_watchers and claim.named or {}) do
  local first = call('ZRANGE', ready_key(kind), 0, 1)
  local is_only = first[1] and not first[2]
  local rule = is_only and shared and shared.rule(kind)
  is_only = is_only and not (rule and rule.paused)
  for _, limit in ipairs(rule and rule.limits or {}) do
    is_only = is_only and limit.period == 0 and limit.closed <= now and shared.left(limit) > 0
  end
  if is_only then
    only_kind, member = kind, first[1]
  end
  if first[1] then
    break
  end
end
local only_id = member and sub(member, 17)
local stored = only_id and call('MGET', record_key(only_id), spec_key(only_id))
local usual = stored and stored[2] and claimed(stored[1], only_kind, incarnation, claim.name)
if usual and not usual.tags then
  -- A key of a wrong type must cause an error before the first write.
  local from, to, idle = index_key(SCHEDULED, only_kind), index_key(PROCESSING, only_kind), call('HGET', IDLE, incarnation)
  call('HLEN', claim.owned)
  call('ZINTERCARD', 3, PREFIX, from, to)
  call('SET', record_key(only_id), usual.text)
  call('ZREM', ready_key(only_kind), member)
  call('ZREM', from, only_id)
  call('ZADD', to, 0, only_id)
  local fence = digits(usual.fence)
  call('HSET', claim.owned, only_id, claim_entry(fence, ''))
  if idle then
    call('SREM', idle_key(sub(idle, 1, SET_SIZE)), incarnation)
    call('HDEL', IDLE, incarnation)
  end
  call('HSET', requests, command, kept_answer(request, '0', only_id, '\n' .. fence))
  return {'ok', now, 0, {}, {},
    {only_kind, usual.fence, usual.priority, usual.due, usual.attempts, usual.crashes, usual.losses}, only_id, stored[2], 1}
end

-- The rest needs further definitions.
-- 4. Repeat an answer.
local repeated = repeat_answer(command, request, answered)
if repeated and (repeated[7] or not looks_again) then
  return repeated
end
claim_reply[2], claim_reply[3] = now, 0
-- A key of a wrong type must cause an error before the first write.
call('HLEN', claim.owned)
if shared then
  shared.load(claim.named)
  -- LIMITED exists as long as LIMITS has a field. Without LIMITS, the limits of all kinds are lost.
  shared.are_missing = shared.are_missing or not shared.has_fields and call('EXISTS', LIMITS) == 0
end

-- 5. Move what fell due to its queue.
move_due(claim)

-- 6. Select the best instances, some at a time, and 7. take them.
local selection = open_selection(claim)
for ids, sources in select_due, selection do
  take(claim, selection, ids, sources)
end

-- Other nodes get what is left; a node that got nothing waits for a hint.
-- What it moved and does not take is for other nodes.
woken[incarnation] = claim.limit > 0
if claim.count > 0 then
  remove_idle(incarnation)
  local left = kind_left(selection)
  if left then
    newly_due[left] = max(newly_due[left] or 0, 1)
  end
else
  claim_reply[3] = earliest_due() or 0
  if wants_idle then
    local without = {}
    for kind, cap in pairs(claim.caps) do
      if cap <= 0 then
        without[#without + 1] = kind
      end
    end
    table.sort(without)
    add_idle(incarnation, claim.set, without)
    if shared then
      claim_reply[3] = next_moment(incarnation, claim_reply[3])
    end
  end
end
if shared then
  -- The commit of the turn can leave it to its claim to wake nodes.
  local freed, passed = unpack(call('HMGET', requests, 'freed', 'passed'))
  if freed or passed or next(shared.limits) then
    limits_after_claim(claim, selection, freed, passed)
  end
end
pass_slots_and_wake()

add_pair('HSET', requests, command, kept_reply(request))
leave_queues(selection)
write_all()
if shared then
  remove_damaged_limits()
end
claim_reply[4] = write_set_aside()
if shared and shared.are_missing then
  table.insert(claim_reply[4], 'missing')
end
return claim_reply
