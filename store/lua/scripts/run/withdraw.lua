#!lua flags=allow-oom
-- Take back what a claim that waited for a hint has claimed, and wake other nodes: the event loop of the node is
-- blocked, so the node cannot run the instances.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, request of the claim
-- Reply    number of claims taken back
local incarnation, request = ARGV[1], ARGV[2]
local name = call('HGET', node_key(incarnation), 'name')
if not name then
  return 0
end
name = text_or(name, incarnation)
remove_idle(incarnation)
woken[incarnation] = true

local taken, owned = 0, owned_key(incarnation)
local answered = call('HGET', requests_key(incarnation), 'hint-claim')
if answered and sub(answered, 1, #request + 1) == request .. '\n' then
  local ids, fences = kept_claims(answered, request)
  for n, id in ipairs(ids) do
    -- With another fence, this is a later claim of the same instance.
    local fence = claim_parts(call('HGET', owned, id) or '')
    local record = fence == fences[n] and decode(call('MGET', record_key(id))[1])
    if record and record.state == PROCESSING and record.owner == incarnation then
      record.attempts = record.attempts - 1
      end_claim(incarnation, id, record, {state = SCHEDULED, due = record.due, node = name,
        note = 'the event loop of the node is blocked'})
      put_string(record_key(id), encode(record))
      hint_change(id)
      taken = taken + 1
    end
  end
end
pass_slots_and_wake()
write_all()
return taken
