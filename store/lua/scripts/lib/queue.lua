-- Where a scheduled instance waits, by its due time and its past; and the index by state.

-- Read what will be written: a key of a wrong type, or one that just moves to another server of a cluster, must
-- fail here, before the first write.
local touched = {}

local function touch_zset(key)
  if not touched[key] then
    touched[key] = call('ZCARD', key)
  end
  return touched[key]
end

local function ready_member(due, id)
  return format('%016.0f', due) .. id
end

-- Tells a claim all it needs to move the instance without reading its record.
local function delayed_member(id, suspect, priority, kind)
  return id .. (suspect and 's' or '-') .. priority .. ':' .. kind
end

-- A member that begins with `@` is an entry of a later release: it stays where it is, and counts nowhere.
local function is_reserved(member)
  return byte(member) == 64
end

-- Up to `most` delayed instances that are due, earliest first: member, due time, and so on.
local function due_delayed(most)
  local due, size, from = {}, 0, 0
  repeat
    local page = call('ZRANGE', DELAYED, '-inf', now, 'BYSCORE', 'LIMIT', from, most, 'WITHSCORES')
    for n = 1, #page, 2 do
      if size < 2 * most and not is_reserved(page[n]) then
        due[size + 1], due[size + 2] = page[n], page[n + 1]
        size = size + 2
      end
    end
    from = from + most
  until #page < 2 * most or size == 2 * most
  return due
end

-- When the earliest delayed instance falls due; nil if there is none.
local function earliest_due()
  local from, count = 0, 1
  repeat
    local page = call('ZRANGE', DELAYED, from, from + count - 1, 'WITHSCORES')
    for n = 1, #page, 2 do
      if not is_reserved(page[n]) then
        return tonumber(page[n + 1])
      end
    end
    from, count = from + count, 100
  until #page == 0
end

local function queue_key(r)
  return is_suspect(r) and suspects_key(r.kind) or ready_key(r.kind)
end

local function enter_queue(r, id)
  if r.due > now then
    touch_zset(DELAYED)
    add_pair('ZADD', DELAYED, r.due, delayed_member(id, is_suspect(r), r.priority, r.kind))
  else
    local key = queue_key(r)
    touch_zset(key)
    add_pair('ZADD', key, r.priority, ready_member(r.due, id))
  end
end

-- A due instance may still wait among the delayed ones.
local function leave_queue(r, id)
  local key = queue_key(r)
  touch_zset(DELAYED)
  touch_zset(key)
  add('ZREM', DELAYED, delayed_member(id, is_suspect(r), r.priority, r.kind))
  add('ZREM', key, ready_member(r.due, id))
end

local function reindex(r, id, before)
  local from, to = index_key(before, r.kind), index_key(r.state, r.kind)
  touch_zset(from)
  touch_zset(to)
  add('ZREM', from, id)
  add_pair('ZADD', to, 0, id)
end

