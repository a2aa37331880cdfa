-- Instances pass the gates of their keys. A script does this once, after it has planned all else but its wakes: an
-- instance that the script cancels must not pass. A claim also does it after it has moved delayed instances.
-- An instance is a table: id, priority, score (the priority as text), due, suspect, member (its position in a queue), and
-- what its entry of `g:` has: letter, time, concurrency, key. A state is what `n:` has about a key.

-- sorted set like a queue, the instances of a kind that wait for a key: priority -> due time in 16 digits, id, letter and
-- concurrency as in `g:`
local waiting_key = gates and function(kind, key)
  return PREFIX .. 'w:' .. #kind .. ':' .. kind .. key
end

-- Pass the gates of one kind. `keys`: further keys of which instances can pass.
local pass_kind = gates and function(kind, keys)
  local MAX_LAST, NO_TIME, COUNTS, NOTHING = 160, '0000000000000000', '>I4I4I4', {}
  local g, n = kind_key('g', kind), kind_key('n', kind)
  local leavers, came = gates.leaving[kind] or NOTHING, gates.coming[kind] or NOTHING
  local rule = shared.rule(kind)
  local own = rule and rule.own > 0 and rule.own
  local states, names, passing, texts_of_leavers = {}, {}, {}, {}
  local entries, counts = pending_list('HSET', g), pending_list('HSET', n)

  local function touch(key)
    if key and not states[key] then
      names[#names + 1], states[key] = key, NOTHING
    end
  end

  local function write(instance, letter, time)
    local size = #entries
    entries[size + 1] = instance.id
    entries[size + 2] = letter .. time .. instance.concurrency .. instance.key
  end

  -- Read the entries of instances. One without a key, or with a damaged entry, gets none.
  local function read(instances)
    local ids = {}
    for at, instance in ipairs(instances) do
      ids[at] = instance.id
    end
    for at, text in ipairs(ids[1] and call('HMGET', g, unpack(ids)) or NOTHING) do
      local instance = instances[at]
      instance.letter, instance.time, instance.concurrency, instance.key = gates.parsed(text)
    end
  end

  -- 1. Read the entries of the instances, and the states of their keys. check_limits.lua finds a damaged entry.
  local ids, stored = {}, {}
  for id in pairs(leavers) do
    ids[#ids + 1] = id
  end
  for at, text in ipairs(ids[1] and call('HMGET', g, unpack(ids)) or NOTHING) do
    if gates.is_whole(text) then
      texts_of_leavers[ids[at]] = text
      touch(sub(text, 22))
    end
  end
  for _, instance in ipairs(came) do
    if not instance.is_new then
      stored[#stored + 1] = instance
    else
      touch(instance.key)
    end
  end
  read(stored)
  for _, instance in ipairs(stored) do
    touch(instance.key)
  end
  for _, instance in ipairs(gates.new[kind] or NOTHING) do
    write(instance, '-', NO_TIME)
  end
  for _, key in ipairs(keys) do
    touch(key)
  end
  for at, text in ipairs(names[1] and call('HMGET', n, unpack(names)) or NOTHING) do
    local state = {key = names[at], is_stored = text and true, admitted = 0, concurrency = 0, waiting = 0, last = '',
      came = false, left = false}
    if text and #text >= 12 and byte(text) == 0 and (#text == 12 or sub(text, -1) == ',') then
      state.admitted, state.concurrency, state.waiting = unpack_text(COUNTS, text)
      state.last = sub(text, 13)
    elseif text then
      -- After damage, the key begins anew, with the instances that wait.
      state.waiting = call('ZCARD', waiting_key(kind, names[at]))
    end
    states[names[at]] = state
  end

  -- 2. Instances leave.
  for id, text in pairs(texts_of_leavers) do
    local state, letter = states[sub(text, 22)], sub(text, 1, 1)
    if letter == 'q' then
      state.admitted = max(0, state.admitted - 1)
      local at = find(state.last, id, 1, true)
      if at then
        state.last = sub(state.last, 1, at - 1) .. sub(state.last, find(state.last, ',', at, true) + 1)
      end
    elseif letter ~= '-' then
      local member = sub(text, 2, 17) .. id .. letter .. sub(text, 18, 21)
      state.waiting, state.left = max(0, state.waiting - 1), state.left or {}
      state.left[#state.left + 1], state.left[member] = id, true
      add('ZREM', waiting_key(kind, state.key), member)
    end
    if leavers[id] == 'over' then
      add('HDEL', g, id)
    else
      local size = #entries
      entries[size + 1], entries[size + 2] = id, '-' .. NO_TIME .. sub(text, 18)
    end
  end

  -- 3. Instances come. One without a key passes no gate.
  for _, instance in ipairs(came) do
    local state = states[instance.key or '']
    local letter = leavers[instance.id] and '-' or instance.letter
    if not state or letter == 'q' then
      add_to_queue(instance.id, kind, instance.score, instance.due, instance.suspect, true)
    elseif letter == '-' then
      if instance.is_new or not state.is_stored and not state.came then
        state.concurrency = unpack_text('>I4', instance.concurrency)
      end
      instance.member, state.came = ready_member(instance.due, instance.id), state.came or {}
      state.came[#state.came + 1] = instance
    end
  end

  local function precedes_other(one, other)
    return one.priority < other.priority or one.priority == other.priority and one.member < other.member
  end

  local function admit(state, instance, place)
    instance.place, passing[#passing + 1] = place, instance
    state.admitted, state.last = state.admitted + 1, state.last .. instance.id .. instance.score .. ','
    if #state.last > MAX_LAST then
      state.last = sub(state.last, find(state.last, ',', 1, true) + 1)
    end
  end

  local function wait(state, instance)
    local letter = instance.suspect and 'W' or 'w'
    add_pair('ZADD', waiting_key(kind, state.key), instance.score, instance.member .. letter .. instance.concurrency)
    write(instance, letter, sub(instance.member, 1, 16))
    state.waiting = state.waiting + 1
  end

  -- If the last admitted instance is queued, and has a worse priority than one that came, the two change places. It was
  -- admitted earlier: one that this script admits precedes all that it does not admit.
  local function change_places(state, instance)
    local text = match(state.last, '([^,]+),$')
    local last = text and {id = sub(text, 1, ID_SIZE), score = sub(text, ID_SIZE + 1)}
    if not last or (tonumber(last.score) or instance.priority) <= instance.priority then
      return
    end
    local record = decode(call('MGET', record_key(last.id))[1])
    read({last})
    if record and record.state == SCHEDULED and last.letter == 'q' then
      last.suspect, last.member = is_suspect(record), ready_member(record.due, last.id)
      add('ZREM', prepare_queue(kind, last.suspect, true), last.time .. last.id)
      state.last, state.admitted = sub(state.last, 1, -#text - 2), state.admitted - 1
      wait(state, last)
      admit(state, instance, instance.due)
      -- Nodes were woken for the other one.
      newly_due[kind] = (newly_due[kind] or 0) - 1
    end
  end

  -- 4. As many as there is room for pass: of those that waited and those that came, in the order of the queue.
  local function pass(state)
    local came_here, next_came, at = state.came or NOTHING, 1, 1
    local room, queue, key = (own or max(1, state.concurrency)) - state.admitted, NOTHING, nil
    if room > 0 and state.waiting > 0 then
      key = waiting_key(kind, state.key)
      queue = call('ZRANGE', key, 0, room + #(state.left or NOTHING) - 1, 'WITHSCORES')
    end
    if came_here[2] then
      table.sort(came_here, precedes_other)
    end
    while room > 0 do
      while queue[at] and state.left and state.left[queue[at]] do
        at = at + 2
      end
      local instance, first = came_here[next_came], nil
      if queue[at] then
        first = {id = sub(queue[at], 17, 52), member = queue[at], score = queue[at + 1], priority = tonumber(queue[at + 1]),
          suspect = sub(queue[at], 53, 53) == 'W', concurrency = sub(queue[at], 54), key = state.key, place = false}
      end
      if first and not (instance and precedes_other(instance, first)) then
        at = at + 2
        add('ZREM', key, first.member)
        state.waiting = max(0, state.waiting - 1)
        admit(state, first, now)
      elseif instance then
        next_came = next_came + 1
        admit(state, instance, instance.due)
      else
        break
      end
      room = room - 1
    end
    if came_here[next_came] then
      change_places(state, came_here[next_came])
    end
    for rest = next_came, #came_here do
      if not came_here[rest].place then
        wait(state, came_here[rest])
      end
    end
  end

  for _, key in ipairs(names) do
    local state = states[key]
    if state.came or state.waiting > 0 then
      pass(state)
    end
    if state.admitted + state.waiting > 0 then
      local size = #counts
      counts[size + 1] = key
      counts[size + 2] = pack(COUNTS, state.admitted, state.concurrency, state.waiting) .. state.last
    elseif state.is_stored then
      add('HDEL', n, key)
    end
  end

  -- 5. Those that passed enter the queue.
  for _, instance in ipairs(passing) do
    write(instance, 'q', instance.due and sub(instance.member, 1, 16) or format('%016.0f', now))
    add_to_queue(instance.id, kind, instance.score, instance.place, instance.suspect, true)
  end
  if newly_due[kind] and newly_due[kind] <= 0 then
    newly_due[kind] = nil
  end
  pending.HSET[g], pending.HSET[n] = entries[1] and entries or nil, counts[1] and counts or nil
end

local pass_gates = gates and function()
  local kinds = {}
  for _, lists in ipairs({gates.leaving, gates.coming, gates.new}) do
    for kind in pairs(lists) do
      kinds[kind] = true
    end
  end
  for kind in pairs(kinds) do
    pass_kind(kind, {})
  end
  gates.leaving, gates.coming, gates.new = {}, {}, {}
end
