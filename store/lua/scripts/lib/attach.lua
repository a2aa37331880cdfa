-- Let an instance need children of a parent: add the edges, and count them in its thread. `id` has the fence `fence`. A
-- need is "c" (completed) or "e" (ended), and an id. `made`: the children that the script makes. The caller writes the
-- thread, and begins or ends the wait. An instance that needs one that ended otherwise is not cancelled here: settling
-- does that, after the writes.
local function attach(id, thread, fence, parent, needs, made)
  local ids = {}
  if not needs[1] then
    return
  end
  for n, need in ipairs(needs) do
    ids[n] = sub(need, 2)
  end
  local held, edge = call('ZMSCORE', children_key(parent), unpack(ids)), digits(fence)
  for n, need in ipairs(needs) do
    local needed, when, state, is_over = ids[n], sub(need, 1, 1), nil, false
    if made[needed] then
      state = SCHEDULED
    elseif held[n] and threads.over[needed] then
      state, is_over = threads.over[needed], true
    elseif held[n] then
      -- The second and the third byte of a record are its state and its flags.
      local head = redis.pcall('GETRANGE', record_key(needed), 1, 2)
      local flags
      state, flags = byte(type(head) == 'string' and head or '', 1, 2)
      is_over = state and is_final(state) and not present(flags or 0, RELEASING)
    end
    if state and not is_over then
      local key, member = edges_key(needed), id .. when .. edge
      local planned = threads.needed[needed] or {}
      threads.needed[needed] = planned
      local known = planned[member]
      for _, other in ipairs(not known and call('ZRANGE', key, '[' .. id, '(' .. id .. 'f', 'BYLEX') or {}) do
        known = known or other == member
        if sub(other, 38) ~= edge then
          -- an edge of an earlier wait
          add('ZREM', key, other)
        end
      end
      if not known then
        add_pair('ZADD', key, 0, member)
        planned[member] = true
        thread.needs = thread.needs + 1
      end
    elseif when == 'c' and state ~= COMPLETED and not threads.failing[id] then
      thread.needs = thread.needs + (threads.fails(id, fence, needed, state or 0) and 1 or 0)
    end
  end
end
