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
--          Keys and tags, for each claim that has any or a thread: number of the claim, "" or "k" and the key, tags, ""
--          or a tail with the thread
--          Shapes, what claims have in common: kind, fence, priority, due, attempts, crashes, losses of each
--
-- The parts are in lib/claim_repeat.lua, lib/claim_due.lua, lib/claim_select.lua, lib/claim_take.lua and
-- lib/claim_end.lua.
local incarnation, command, request, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local wants_idle, set_name, looks_again = ARGV[6] == '1', ARGV[7], command == 'turn-again'
command = looks_again and 'turn-claim' or command
local name, registered = unpack(call('HMGET', node_key(incarnation), 'name', 'set'))
if not name then
  return {'dead'}
elseif registered ~= set_name and limit > 0 then
  return {'set'}
end

-- 1. Repeat an answer.
local repeated = repeat_answer(incarnation, command, request)
if repeated and (repeated[7] or not looks_again) then
  return repeated
end
claim_reply[2], claim_reply[3] = now, 0

-- `caps` are the limits of the kinds in `named`. The last fields change while the claim takes: how many instances and
-- bytes of specs it has, the size of the largest instance that it read, how many it refused, and the kind of the first
-- one that does not fit into the reply.
local claim = {incarnation = incarnation, name = text_or(name, incarnation), owned = owned_key(incarnation), limit = limit,
  wants_suspect = ARGV[5] == '1', set = set_name, letter = sub(set_name, 1, 1), default = tonumber(ARGV[8]), caps = {},
  named = {}, count = 0, bytes = 0, largest = 0, refused = 0, cut_at = nil}
for n = 9, #ARGV, 2 do
  -- Each node runs flows; no namespace below layout 4 has any, so a claim of one other kind stays a claim of one.
  if ARGV[n] ~= FLOW_KIND or layout == FLOWS_LAYOUT then
    claim.named[#claim.named + 1] = ARGV[n]
  end
  claim.caps[ARGV[n]] = tonumber(ARGV[n + 1])
end
-- A key of a wrong type must cause an error before the first write.
call('HLEN', claim.owned)
if shared then
  shared.load(claim.named)
end

-- 2. Move what fell due to its queue.
move_due(claim)

-- 3. Select the best instances, some at a time, and 4. take them.
local selection = open_selection(claim)
for ids, sources in select_due, selection do
  take(claim, selection, ids, sources)
end

-- Other nodes get what is left; a node that got nothing waits for a hint.
-- What it moved and does not take is for other nodes.
woken[incarnation] = limit > 0
if claim.count > 0 then
  remove_idle(incarnation)
  local left = kind_left(selection)
  if left then
    newly_due[left] = max(newly_due[left] or 0, 1)
  end
elseif claim.refused == 0 then
  claim_reply[3] = earliest_due() or 0
  if wants_idle and limit > 0 then
    local without = {}
    for kind, cap in pairs(claim.caps) do
      if cap <= 0 then
        without[#without + 1] = kind
      end
    end
    table.sort(without)
    add_idle(incarnation, set_name, without)
    if shared then
      claim_reply[3] = next_moment(incarnation, claim_reply[3])
    end
  end
end
if shared then
  limits_after_claim(claim, selection)
end
pass_slots_and_wake()

add_pair('HSET', requests_key(incarnation), command, kept_reply(request))
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
