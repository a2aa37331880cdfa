#!lua flags=allow-oom
-- Remove instances whatever their state, and with them the slots; called until it answers 0. Schedules stay.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     limit
-- Reply    how many were removed
local limit, ids = tonumber(ARGV[1]), {}
local kinds = call('SMEMBERS', KINDS)
for _, kind in ipairs(kinds) do
  for _, state in ipairs(SINGLE) do
    local found = #ids < limit and call('ZRANGE', index_key(state, kind), 0, limit - #ids - 1) or {}
    for _, id in ipairs(found) do
      local r = decode(call('MGET', record_key(id))[1])
      if r and r.state == SCHEDULED then
        leave_queue(r, id)
      elseif r and r.state == PROCESSING then
        add('HDEL', owned_key(r.owner), id)
        hint(r.owner, 'c' .. id)
      elseif r then
        add('ZREM', expiry_key(kind), expiry_member(r, id))
      end
      if r then
        set_free(r, id)
      end
      remove(id, kind, state, true)
      ids[#ids + 1] = id
    end
  end
end
ended(ids)
settle_slots()
write_all()
if #ids == 0 then
  -- nothing is left to hold what these held
  for _, kind in ipairs(kinds) do
    call('UNLINK', ready_key(kind), suspects_key(kind), expiry_key(kind), unique_key(kind))
  end
  for _, schedule in ipairs(call('HVALS', SLOTS)) do
    call('UNLINK', slot_key(schedule))
  end
  call('UNLINK', KINDS, WATCHED, SLOTS)
  -- entries of later releases stay
  local from = 0
  repeat
    local page, left = call('ZRANGE', DELAYED, from, from + limit - 1), {}
    for _, member in ipairs(page) do
      if not is_reserved(member) then
        left[#left + 1] = member
      end
    end
    if #left > 0 then
      send('ZREM', DELAYED, left)
    end
    from = from + #page - #left
  until #page == 0
end
bound_hints()
return #ids
