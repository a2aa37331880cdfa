#!lua flags=allow-oom
-- Remove instances whatever their state, and with them the slots, some kinds at a time. Schedules stay, and the kinds that
-- nodes registered.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     limit, cursor of kinds ("0" to begin), how many kinds to look at
-- Reply    {how many were removed, next cursor ("0" at the end; the same one while instances of these kinds are left)}
local limit, ids = tonumber(ARGV[1]), {}
local kinds, cursor = some_kinds(ARGV[2], ARGV[3])
local emptied = {}
for _, kind in ipairs(kinds) do
  local before = #ids
  for _, state in ipairs(SINGLE) do
    local found = #ids < limit and call('ZRANGE', index_key(state, kind), 0, limit - #ids - 1) or {}
    for _, id in ipairs(found) do
      local r = decode(call('MGET', record_key(id))[1])
      if r and r.state == SCHEDULED then
        leave_queue(r, id)
      elseif r and r.state == PROCESSING then
        end_claim(r.owner, id, r, nil)
        hint(r.owner, 'c' .. id)
      elseif r then
        add('ZREM', expiry_key(kind), expiry_member(r, id))
      end
      if r then
        set_free(r, id)
        remember_removed(id, created_at(r))
      end
      remove(id, kind, state, r and r.tags or '')
      ids[#ids + 1] = id
    end
  end
  if #ids == before and #ids < limit then
    emptied[#emptied + 1] = kind
    touch_queue(kind, false, true)
    touch_queue(kind, true, true)
  end
end
ended(ids)
settle_slots()
wake_for_entered()
for _, kind in ipairs(emptied) do
  -- nothing is left to hold what these held
  call('UNLINK', ready_key(kind), suspects_key(kind), expiry_key(kind), unique_key(kind))
  if sets_of(kind) == '' then
    add('HDEL', KINDS, kind)
  end
end
write_all()
bound_hints()
return {#ids, #emptied == #kinds and cursor or ARGV[2]}
