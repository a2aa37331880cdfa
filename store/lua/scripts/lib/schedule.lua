-- The rows of schedules, their revisions, and the leadership of the namespace.
local SCHEDULE_FIELDS = {'kind', 'definition', 'revision', 'next', 'paused', 'note', 'created', 'updated', 'last', 'trimmed'}

-- Return the row of a schedule: its name, its fields, and the instances that hold its slot or wait for it. Return false
-- if there is no schedule of that name.
local function schedule_row(name)
  local found = call('HMGET', schedule_key(name), unpack(SCHEDULE_FIELDS))
  if not found[1] then
    return false
  end
  table.insert(found, 1, name)
  found[#found + 1] = call('ZRANGE', slot_key(name), 0, -1)
  return found
end

-- A revision, like a fence, is at least the server's time, so revisions grow even if the server lost its last second of
-- writes.
local function next_revision()
  return max(tonumber(call('HGET', REVISIONS, 'latest') or '0') + 1, now)
end

-- Return {incarnation, name, term, since} of the leader, or {} if there is none.
local function leader_now()
  local found = call('HMGET', LEADER, 'incarnation', 'name', 'term', 'since')
  return found[1] and found or {}
end
