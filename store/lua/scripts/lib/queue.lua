-- The queues: ready instances by kind, suspects by kind, delayed instances; and the index by state.

-- Read a key that the script will write later. A key of a wrong type, or a key that moves to another server of a
-- cluster, must cause an error before the first write.
local checked_sizes = {}

local function check_zset(key)
  checked_sizes[key] = checked_sizes[key] or call('ZCARD', key)
end

-- Read two keys in one command before they are written. PREFIX never exists as a key, so the server finds an empty
-- intersection without a search.
local function check_zsets(one, other)
  if not checked_sizes[one] or not checked_sizes[other] then
    call('ZINTERCARD', 3, PREFIX, one, other)
    checked_sizes[one], checked_sizes[other] = true, true
  end
end

-- Let the server make a table of a sorted set to which many members are added: it would search a list of up to 128 short
-- members for each of them. A long first member, which leaves the sorted set at once, makes the difference. `has_many`:
-- whether the set has many members although few are added.
local widened = {}

local function as_table(key, has_many)
  local FEW, list, long = 8, pending.ZADD and pending.ZADD[key], string.rep(' ', 65)
  local size = list and #list or 0
  -- The indexes of heads need `after_writing` for themselves.
  if (has_many or size > 2 * FEW) and not has_indexes then
    list[size + 1], list[size + 2], list[1], list[2] = list[1], list[2], 0, long
    widened[#widened + 1] = key
    after_writing = after_writing or function()
      after_writing = nil
      for n = 1, #widened do
        add('ZREM', widened[n], long)
      end
      widened = {}
    end
  end
end

-- The text of the last due time is kept: most instances of a batch have the same due time.
local latest_due, latest_text = nil, nil

local function ready_member(due, id)
  if due ~= latest_due then
    latest_due, latest_text = due, format('%016.0f', due)
  end
  return latest_text .. id
end

-- Return the member of an instance in DELAYED. The member has all that a claim needs to move the instance to its queue,
-- so the claim does not read the record.
local function delayed_member(id, suspect, priority, kind)
  return id .. (suspect and 's' or '-') .. priority .. ':' .. kind
end

-- A member that begins with `@` is an entry of a later version of peerjob: scripts of this version neither move nor
-- count the entry.
local function is_reserved(member)
  return byte(member) == 64
end

-- Return up to `max_count` delayed instances that are due, earliest first, as a flat list of members and due times.
local function due_delayed(max_count)
  local due, size, from = {}, 0, 0
  repeat
    local batch = call('ZRANGE', DELAYED, '-inf', now, 'BYSCORE', 'LIMIT', from, max_count, 'WITHSCORES')
    for n = 1, #batch, 2 do
      if size < 2 * max_count and not is_reserved(batch[n]) then
        due[size + 1], due[size + 2] = batch[n], batch[n + 1]
        size = size + 2
      end
    end
    from = from + max_count
  until #batch < 2 * max_count or size == 2 * max_count
  return due
end

-- Return the due time of the earliest delayed instance, or nil if there is none.
local function earliest_due()
  local from, count = 0, 1
  repeat
    local batch = call('ZRANGE', DELAYED, from, from + count - 1, 'WITHSCORES')
    for n = 1, #batch, 2 do
      if not is_reserved(batch[n]) then
        return tonumber(batch[n + 1])
      end
    end
    from, count = from + count, 100
  until #batch == 0
end

-- Return the keys of the indexes of heads that have the head of a queue.
local function head_indexes_of(kind, suspect)
  local keys = {}
  for set in string.gmatch(sets_of(kind) or '', 'x%x+') do
    keys[#keys + 1] = heads_key(set, suspect)
    check_zset(keys[#keys])
  end
  return keys
end

-- Whether a member comes before the head of its queue. A head is its member and its score.
local function precedes_head(member, priority, head)
  local score, first = tonumber(priority), tonumber(head[2])
  return not first or score < first or score == first and member < head[1]
end

-- Queues whose heads can be in an index of heads, each with its head before the writes. For a queue that only grows,
-- the head after the writes is kept, too.
local queues_before = {}

-- Return the key of the queue of a kind, and keep the head of the queue, so that indexes of heads are updated after the
-- writes. `shrinks`: an instance leaves the queue. `first`: the head, if the caller has read the head.
local function prepare_queue(kind, suspect, shrinks, first)
  local key = suspect and suspects_key(kind) or ready_key(kind)
  if not has_indexes then
    checked_sizes[key] = checked_sizes[key] or call('ZCARD', key)
    return key
  elseif queues_before[key] then
    queues_before[key].shrinks = queues_before[key].shrinks or shrinks
    return key
  end
  first = first or call('ZRANGE', key, 0, 0, 'WITHSCORES')
  local last = {first[1], tonumber(first[2])}
  queues_before[key] = {kind = kind, heads = head_indexes_of(kind, suspect), first = first, last = last, shrinks = shrinks}
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

-- Instances enter a queue only through add_to_queue, and hints.lua wakes nodes for them. The one exception is add_plain in
-- arrival.lua, for one instance alone. `newly_due` counts the new claimable instances by kind; `earliest_delayed` is the
-- earliest of the new delayed ones.
local newly_due, earliest_delayed = {}, nil

-- The last queue is kept with its planned writes: most instances of a batch enter the same queue.
local entered = {}

local function add_to_queue(id, kind, priority, due, suspect, passed)
  if due <= now then
    if gates and not passed and come_to_gate(id, kind, priority, due, suspect) then
      return
    end
    if entered.kind ~= kind or entered.suspect ~= suspect or entered.pending ~= pending then
      local key = prepare_queue(kind, suspect)
      entered = {kind = kind, suspect = suspect, pending = pending, key = key, list = pending_list('ZADD', key)}
    end
    local list, member = entered.list, ready_member(due, id)
    local size = #list
    list[size + 1], list[size + 2] = priority, member
    if has_indexes then
      local last = queues_before[entered.key].last
      if precedes_head(member, priority, last) then
        last[1], last[2] = member, tonumber(priority)
      end
    end
    newly_due[kind] = (newly_due[kind] or 0) + 1
    return
  end
  check_zset(DELAYED)
  add_pair('ZADD', DELAYED, due, delayed_member(id, suspect, priority, kind))
  if not earliest_delayed or due < earliest_delayed.due then
    earliest_delayed = {kind = kind, due = due}
  end
end

-- An instance that is due can still be in DELAYED until a claim moves the instance, so remove it from DELAYED and from
-- its queue.
local function remove_from_queue(record, id)
  local suspect = is_suspect(record)
  local place = gates and place_past_gate(id, record.kind, record.due) or record.due
  check_zset(DELAYED)
  add('ZREM', DELAYED, delayed_member(id, suspect, record.priority, record.kind))
  add('ZREM', prepare_queue(record.kind, suspect, true), ready_member(place, id))
end

-- The last move is kept with its planned writes: most instances of a batch make the same move.
local move = {}

local function move_in_index(kind, id, before, state)
  if move.kind ~= kind or move.state ~= state or move.before ~= before or move.pending ~= pending then
    local from, to = index_key(before, kind), index_key(state, kind)
    check_zsets(from, to)
    if shared and before == PROCESSING then
      shared.ends(kind)
    end
    move = {kind = kind, before = before, state = state, pending = pending, from = pending_list('ZREM', from),
      to = pending_list('ZADD', to)}
  end
  local from, to = move.from, move.to
  local size = #to
  from[#from + 1] = id
  to[size + 1], to[size + 2] = '0', id
end

local function reindex(record, id, before)
  move_in_index(record.kind, id, before, record.state)
end
