-- Schedules as they were put, each with its revision, and the leadership that the namespace itself keeps.
local SCHEDULE_FIELDS = {'kind', 'definition', 'revision', 'next', 'paused', 'note', 'created', 'updated', 'last', 'trimmed'}

-- What a reader gets of one, or false: its name, the fields, and who has its slot and waits for it.
local function schedule_row(name)
  local found = call('HMGET', schedule_key(name), unpack(SCHEDULE_FIELDS))
  if not found[1] then
    return false
  end
  table.insert(found, 1, name)
  found[#found + 1] = call('ZRANGE', slot_key(name), 0, -1)
  return found
end

-- As with fences, it also grows over a server that lost its last second.
local function next_revision()
  return max(tonumber(call('HGET', REVISIONS, 'latest') or '0') + 1, now)
end

-- {incarnation, name, term, since} of who leads, or {} when nobody does.
local function leader_now()
  local found = call('HMGET', LEADER, 'incarnation', 'name', 'term', 'since')
  return found[1] and found or {}
end
