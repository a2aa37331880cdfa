#!lua flags=allow-oom
-- Remove instances in any state, and empty the slots of schedules, some kinds a call. Schedules stay, and so do kinds
-- that nodes registered.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     limit, cursor of kinds ("0" to begin), number of kinds to look at
-- Reply    {number of removed instances, next cursor ("0" at the end; the same cursor while these kinds have
--          instances)}
local limit, ids = tonumber(ARGV[1]), {}
local kinds, cursor = some_kinds(ARGV[2], ARGV[3])
local emptied, releasing = {}, {}
for _, kind in ipairs(kinds) do
  local before = #ids
  for _, state in ipairs(SINGLE) do
    local found = #ids < limit and call('ZRANGE', index_key(state, kind), 0, limit - #ids - 1) or {}
    for _, id in ipairs(found) do
      local record = decode(call('MGET', record_key(id))[1])
      if record and record.state == SCHEDULED then
        remove_from_queue(record, id)
      elseif record and record.state == PROCESSING then
        end_claim(record.owner, id, record, nil)
        hint(record.owner, 'c' .. id)
      elseif record then
        add('ZREM', expiry_key(kind), expiry_member(record, id))
        releasing[#releasing + 1] = record.releasing and id or nil
      end
      if record then
        release_key_and_slot(record, id)
        remember_removed(id, created_at(record))
      end
      if gates then
        leave_gate(id, kind, true)
      end
      if layout == FLOWS_LAYOUT and (not record or record.thread) then
        settle_later('e' .. id .. '0', 'k' .. id)
      end
      remove(id, kind, state, record and record.tags or '', layout == FLOWS_LAYOUT)
      ids[#ids + 1] = id
    end
  end
  if #ids == before and #ids < limit then
    emptied[#emptied + 1] = kind
    prepare_queue(kind, false, true)
    prepare_queue(kind, true, true)
  end
end
end_claims_of(releasing)
hint_end(ids)
pass_slots_and_wake()
for _, kind in ipairs(emptied) do
  -- A kind in `emptied` has no instances left, so every entry under the keys of the kind is a leftover.
  call('UNLINK', ready_key(kind), suspects_key(kind), expiry_key(kind), unique_key(kind), releasing_key(kind),
    kind_key('g', kind), kind_key('n', kind))
  if sets_of(kind) == '' then
    add('HDEL', KINDS, kind)
  end
  if limited then
    add('HDEL', LIMITS, 'g' .. kind)
  end
end
write_all()
if limited and call('HLEN', LIMITS) == 0 then
  call('UNLINK', LIMITED)
end
return {#ids, #emptied == #kinds and cursor or ARGV[2]}
