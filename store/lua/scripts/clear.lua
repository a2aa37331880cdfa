#!lua flags=allow-oom
-- Remove instances whatever their state; called until it answers 0.
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
      if r and r.key and call('HGET', unique_key(kind), r.key) == id then
        add('HDEL', unique_key(kind), r.key)
      end
      remove(id, kind, state, true)
      ids[#ids + 1] = id
    end
  end
end
ended(ids)
write_all()
if #ids == 0 then
  -- nothing is left to hold what these held
  for _, kind in ipairs(kinds) do
    call('UNLINK', ready_key(kind), suspects_key(kind), expiry_key(kind), unique_key(kind))
  end
  call('UNLINK', DELAYED, KINDS, WATCHED)
end
bound_hints()
return #ids
