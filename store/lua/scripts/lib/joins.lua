-- Ends of children in a commit that leave further needs to each instance that needs the child. These needs go down in
-- the writes of the commit, so the ends need no entry in SETTLING. settle.lua follows up each other end, as that of a
-- last need.
local joins = {claims = {}}
do
  -- Most edges that a commit reads for this: the server answers no other call meanwhile.
  local edges_left = 1000
  -- By id: the instances that need children, or false for one that is left to settle.lua.
  -- By an edge, which many children have: {dependant, when}, or false for an edge that is left to settle.lua.
  -- By the id of a parent: its children, as lists of ids and records.
  local dependants, known_edges, families = {}, {}, {}

  local function read_edge(edge)
    local id = sub(edge, 1, ID_SIZE)
    local one = dependants[id]
    if one == nil then
      -- An instance of the commit itself can be written by it.
      local record = joins.claims[id] == nil and decode(call('MGET', record_key(id))[1])
      local thread = record and not is_final(record.state) and record.thread
      one = thread and thread.fence == record.fence
        and {record = record, fence = digits(record.fence), needs = thread.needs} or false
      dependants[id] = one
    end
    return one and one.fence == sub(edge, ID_SIZE + 2) and {one, sub(edge, ID_SIZE + 1, ID_SIZE + 1)}
  end

  -- Return the dependant of an edge if the end of a child in this state only lowers the count of its needs.
  local function dependant_of(edge, state)
    local known = known_edges[edge]
    if known == nil then
      known = read_edge(edge)
      known_edges[edge] = known
    end
    local is_counted = known and (state == COMPLETED or known[2] == 'e')
    return is_counted and known[1].needs > 1 and known[1]
  end

  -- Take the end of a child with these edges, which `key` has. Return false if settle.lua must follow it up.
  function joins.take(record, id, key, edges, retention)
    local found, parent = {}, record.thread.parent
    if #edges > edges_left then
      return false
    end
    edges_left = edges_left - #edges
    for n, edge in ipairs(edges) do
      local one = dependant_of(edge, record.state)
      if not one then
        for _, other in ipairs(found) do
          other.needs = other.needs + 1
        end
        return false
      end
      found[n], one.needs = one, one.needs - 1
    end
    unlink(found[1] and key or nil)
    local family = families[parent] or {ids = {}, records = {}, retention = retention}
    families[parent] = family
    local size = #family.ids
    family.ids[size + 1], family.records[size + 1] = id, record
    return true
  end

  -- Plan to write the counts. A child that its parent does not hold expires. One that was cancelled before the end of its
  -- body is not among `ended_ids`: its end removes no other ones.
  function joins.write()
    local just_ended = {}
    for _, id in ipairs(ended_ids) do
      just_ended[id] = true
    end
    for id, one in pairs(dependants) do
      if one and one.needs < one.record.thread.needs then
        one.record.thread.needs = one.needs
        put_thread(one.record)
        put_string(record_key(id), encode(one.record))
      end
    end
    for parent, family in pairs(families) do
      for n, held in ipairs(call('ZMSCORE', children_key(parent), unpack(family.ids))) do
        if not held then
          local id, record = family.ids[n], family.records[n]
          set_expiry(record.kind, id, expiry_member(record, id), record.retention, family.retention)
          ended_kinds[record.kind] = just_ended[id] and (ended_kinds[record.kind] or 0) + 1 or ended_kinds[record.kind]
        end
      end
    end
  end
end
