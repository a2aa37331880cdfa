-- Edges that damage took. An edge that cannot be read, or whose record is gone, may have named another instance. When the
-- child that it was of has ended, settle.lua lets go on what needs that child. Nil as `settle`.
local mend_edges = layout == FLOWS_LAYOUT and (function()
  -- Most children, ends and edges that a script reads for this: the server answers no other call meanwhile. The leader
  -- mends what is left, see mend_needs.lua.
  local left_to_read = 500

  -- Return the children of a parent, and the parent last; only the parent if they and their edges are too many.
  local function family_of(parent)
    local size, ids = call('ZCARD', children_key(parent)) + call('ZCARD', SETTLING), {}
    if size <= left_to_read then
      ids = call('ZRANGE', children_key(parent), 0, -1)
    end
    for _, id in ipairs(ids) do
      size = size + call('ZCARD', edges_key(id))
    end
    if size > left_to_read then
      return {parent}
    end
    left_to_read = left_to_read - size
    ids[#ids + 1] = parent
    return ids
  end

  -- Find needs below a parent that have lost their edges: an instance has as many needs as edges and entries "f". Return
  -- the ids of the instances, the parent last, and by id the needs that are too many, and the fence.
  local function lost_needs(parent)
    local ids, left, fences = family_of(parent), {}, {}
    for _, id in ipairs(ids) do
      local other = decode(call('MGET', record_key(id))[1])
      local thread = other and not is_final(other.state) and other.thread
      if thread and thread.fence == other.fence and thread.needs > 0 then
        left[id], fences[id] = thread.needs, digits(other.fence)
      end
    end
    local function is_known(id, fence)
      left[id] = left[id] and left[id] - (fence == fences[id] and 1 or 0)
    end
    for n = 1, #ids - 1 do
      for _, member in ipairs(call('ZRANGE', edges_key(ids[n]), 0, -1)) do
        is_known(sub(member, 1, 36), sub(member, 38))
      end
    end
    for _, text in ipairs(#ids > 1 and call('ZRANGE', SETTLING, 0, -1) or {}) do
      if sub(text, 1, 1) == 'f' then
        is_known(sub(text, 2, 37), match(text, ' (%d+)$'))
      end
    end
    return ids, left, fences
  end

  -- Let go on what damaged edges named: {id of the child that is over, its state} each. An instance that needs a sibling
  -- is cancelled unless the sibling completed, because the edge may have said so. So the failed ones come first.
  return function(lost)
    local families = {}
    table.sort(lost, function(one, other)
      return one[2] ~= COMPLETED and other[2] == COMPLETED
    end)
    for _, one in ipairs(lost) do
      local child, state = one[1], one[2]
      local record = decode(call('MGET', record_key(child))[1])
      local parent = record and record.thread and record.thread.parent or ''
      local above = parent ~= '' and decode(call('MGET', record_key(parent))[1])
      if above and not is_final(above.state) then
        count_stray(child, record.kind, 'what needs it cannot be read')
        families[parent] = families[parent] or {lost_needs(parent)}
        local ids, left, fences = unpack(families[parent])
        for _, id in ipairs(#ids > 1 and ids or {}) do
          if left[id] and left[id] > 0 then
            left[id] = left[id] - 1
            settle_later('f' .. id .. child .. (id == parent and COMPLETED or state or 0) .. ' ' .. fences[id])
          end
        end
      end
    end
  end
end)()
