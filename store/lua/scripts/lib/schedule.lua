-- The rows of schedules, their revisions, and the leadership of the namespace.
local SCHEDULE_FIELDS = {'kind', 'definition', 'revision', 'next', 'paused', 'note', 'created', 'updated', 'last', 'trimmed'}

-- Return whether the fields of a schedule can be read; the definition is only known by its readers.
local function is_row(found)
  local next_time, paused = found[4], found[5]
  local readable = found[1] and found[1] ~= '' and found[2] and whole_number(found[3])
    and (next_time == '' or is_moment(next_time)) and (paused == '0' or paused == '1') and found[6]
    and is_moment(found[7]) and is_moment(found[8]) and is_moment(found[9]) and is_moment(found[10])
  return readable and is_text(found[1]) and is_text(found[6])
end

-- Return the row of a schedule: its name, its fields, and the instances that hold its slot or wait for it. Return
-- {name} for a schedule that cannot be read, and false if there is no schedule of that name.
local function schedule_row(name)
  local found = call('HMGET', schedule_key(name), unpack(SCHEDULE_FIELDS))
  if not is_row(found) then
    return call('EXISTS', schedule_key(name)) == 1 and {name}
  end
  local slot = {}
  for _, id in ipairs(call('ZRANGE', slot_key(name), 0, -1)) do
    slot[#slot + 1] = is_id(id) and id or nil
  end
  table.insert(found, 1, name)
  found[#found + 1] = slot
  return found
end

-- Return the bytes of the definition in a row.
local function size_of_row(row)
  return row and row[3] and #row[3] or 0
end

-- Return the highest revision in a sorted set of schedules, 0 if there is none.
local function highest_revision(key)
  local found = call('ZRANGE', key, digits(LATEST), '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  return max(tonumber(found[2] or '0'), 0)
end

-- Return the latest revision, and the latest forgotten one. If a number cannot be read, the schedules and removals that
-- are there tell it. `wrong_type`: a script that writes the key must remove the key first.
local function revisions_now()
  local found, wrong_type = coordination(REVISIONS, 'latest', 'floor')
  local latest_revision, floor = whole_number(found[1]), whole_number(found[2])
  if not latest_revision then
    latest_revision = max(highest_revision(SCHEDULES), highest_revision(REMOVED))
  end
  if not floor and (found[2] or wrong_type) then
    floor = tonumber(call('ZRANGE', REMOVED, '0', '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2] or '0')
  end
  return latest_revision, floor or 0, wrong_type
end

-- A revision, like a fence, is at least the server's time, so revisions grow even if the server lost its last second of
-- writes.
local function next_revision()
  return max((revisions_now()) + 1, now)
end

-- Write a field of the revisions. A key of another type is replaced.
local function set_revision(field, revision)
  local _, _, wrong_type = revisions_now()
  if wrong_type then
    call('UNLINK', REVISIONS)
  end
  call('HSET', REVISIONS, field, revision)
end

-- Return {incarnation, name, term, since} of the leader, or {} if there is none. A leader that cannot be read is none,
-- and the next campaign replaces it.
local function leader_now()
  local found = coordination(LEADER, 'incarnation', 'name', 'term', 'since')
  local readable = found[1] and found[1] ~= '' and is_text(found[1]) and found[2] and is_text(found[2]) and whole_number(found[3])
    and whole_number(found[4])
  return readable and found or {}
end

-- Return the highest term of a coordinator that the store has seen, or nil. A number that cannot be read is absent.
local function highest_term(coordinator)
  local found, wrong_type = coordination(TERMS, coordinator)
  if wrong_type then
    call('UNLINK', TERMS)
  end
  local term = whole_number(found[1])
  return term and term < LATEST and term or nil
end
