-- Where a scheduled instance waits, by its due time and its past; and the index by state.

-- Read what will be written: a key of a wrong type, or one that just moves to another server of a cluster, must
-- fail here, before the first write.
local touched = {}

local function touch_zset(key)
  touched[key] = touched[key] or call('ZCARD', key)
end

-- The same for two at once: with P, which is never there, the intersection is empty before anything is looked at.
local function touch_zsets(one, other)
  if not touched[one] or not touched[other] then
    call('ZINTERCARD', 3, P, one, other)
    touched[one], touched[other] = true, true
  end
end

-- Those of a batch mostly have one due time.
local latest_due, latest_text = nil, nil

local function ready_member(due, id)
  if due ~= latest_due then
    latest_due, latest_text = due, format('%016.0f', due)
  end
  return latest_text .. id
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

-- Queues that may have indexed heads: the head before the writes, and the one after them of a queue that only grows.
local queues_before = {}

-- The queue of a kind, which is going to be written; `shrinks` if something leaves it, `first` is its head if that was read.
local function touch_queue(kind, suspect, shrinks, first)
  local key = suspect and suspects_key(kind) or ready_key(kind)
  if not has_indexes then
    touched[key] = touched[key] or call('ZCARD', key)
    return key
  elseif queues_before[key] then
    queues_before[key].shrinks = queues_before[key].shrinks or shrinks
    return key
  end
  local heads = {}
  first = first or call('ZRANGE', key, 0, 0, 'WITHSCORES')
  queues_before[key] = {kind = kind, heads = heads, first = first, last = {first[1], tonumber(first[2])}, shrinks = shrinks}
  for set in string.gmatch(sets_of(kind) or '', 'x%x+') do
    heads[#heads + 1] = heads_key(set, suspect)
    touch_zset(heads[#heads])
  end
  after_writing = after_writing or function()
    for queue, before in pairs(queues_before) do
      local was, first = before.first, before.last
      if before.shrinks then
        first = call('ZRANGE', queue, 0, 0, 'WITHSCORES')
      end
      for _, index in ipairs((was[1] ~= first[1] or tonumber(was[2]) ~= tonumber(first[2])) and before.heads or {}) do
        if was[1] then
          add('ZREM', index, was[1] .. before.kind)
        end
        if first[1] then
          add_pair('ZADD', index, first[2], first[1] .. before.kind)
        end
      end
    end
    queues_before, after_writing = {}, nil
  end
  return key
end

-- The one way into the queue. `entered` counts what can be claimed at once, by kind; `earliest_entered` is the first of
-- the delayed: hints.lua wakes nodes for both.
local entered, earliest_entered = {}, nil

local function let_in(id, kind, priority, due, suspect)
  if due <= now then
    local key, member = touch_queue(kind, suspect), ready_member(due, id)
    add_pair('ZADD', key, priority, member)
    if has_indexes then
      local last, score = queues_before[key].last, tonumber(priority)
      if not last[1] or score < last[2] or score == last[2] and member < last[1] then
        last[1], last[2] = member, score
      end
    end
    entered[kind] = (entered[kind] or 0) + 1
    return
  end
  touch_zset(DELAYED)
  add_pair('ZADD', DELAYED, due, delayed_member(id, suspect, priority, kind))
  if not earliest_entered or due < earliest_entered.due then
    earliest_entered = {kind = kind, due = due}
  end
end

-- A due instance may still wait among the delayed ones.
local function leave_queue(r, id)
  local suspect = is_suspect(r)
  touch_zset(DELAYED)
  add('ZREM', DELAYED, delayed_member(id, suspect, r.priority, r.kind))
  add('ZREM', touch_queue(r.kind, suspect, true), ready_member(r.due, id))
end

local function reindex(r, id, before)
  local from, to = index_key(before, r.kind), index_key(r.state, r.kind)
  touch_zsets(from, to)
  add('ZREM', from, id)
  add_pair('ZADD', to, 0, id)
end
