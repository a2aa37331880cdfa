-- Instances pass the gates of their keys. A script does this once, after it has planned all else but its wakes: an
-- instance that the script cancels must not pass. A claim also does it after it has moved delayed instances.
-- An instance is a table: id, priority, score (the priority as text), due, suspect, member (its position in a queue), and
-- what its entry of `g:` has: letter, time, concurrency, key. A state is what `n:` has about a key.

-- sorted set like a queue: the instances of a kind that wait for a key
local waiting_key = gates and function(kind, key)
  return PREFIX .. 'w:' .. #kind .. ':' .. kind .. key
end

-- Pass the gates of one kind. `keys`: further keys of which instances can pass.
local pass_kind = gates and function(kind, keys)
  local MAX_LAST, NO_TIME, COUNTS = 320, '0000000000000000', '>I4I4I4'
  local g, n = kind_key('g', kind), kind_key('n', kind)
  local leavers, came, new = gates.leaving[kind] or {}, gates.coming[kind] or {}, gates.new[kind] or {}
  local rule = shared.rule(kind)
  local own = rule and rule.own > 0 and rule.own
  local states, names, passing, changed, known = {}, {}, {}, {}, {}

  local function touch(key)
    if key and states[key] == nil then
      names[#names + 1], states[key] = key, false
    end
  end

  -- Read the entries of instances. One without a key, or with a damaged entry, gets none.
  local function read(instances)
    local ids = {}
    for at, instance in ipairs(instances) do
      ids[at] = instance.id
    end
    for at, text in ipairs(ids[1] and call('HMGET', g, unpack(ids)) or {}) do
      local instance = instances[at]
      instance.letter, instance.time, instance.concurrency, instance.key = gates.parsed(text)
    end
  end

  local function change(instance, letter, time)
    instance.letter, instance.time = letter, time
    changed[instance.id] = instance
  end

  -- 1. Read the entries of the instances, and the states of their keys.
  local stored = {}
  for id in pairs(leavers) do
    known[id] = {id = id}
    stored[#stored + 1] = known[id]
  end
  for _, instance in ipairs(came) do
    if known[instance.id] then
      instance.left = known[instance.id]
    elseif not instance.is_new then
      stored[#stored + 1] = instance
    end
  end
  read(stored)
  for _, instance in ipairs(stored) do
    touch(instance.key)
  end
  for _, instance in pairs(new) do
    changed[instance.id], instance.time = instance, NO_TIME
    instance.concurrency = pack('>I4', instance.concurrency)
    touch(instance.key)
  end
  for _, key in ipairs(keys) do
    touch(key)
  end
  for at, text in ipairs(names[1] and call('HMGET', n, unpack(names)) or {}) do
    local state = {admitted = 0, concurrency = 0, waiting = 0, last = ''}
    if text and #text >= 12 then
      state.admitted, state.concurrency, state.waiting = unpack_text(COUNTS, text)
      state.last = sub(text, 13)
    elseif text then
      -- After damage, the key begins anew, with the instances that wait.
      state.waiting = call('ZCARD', waiting_key(kind, names[at]))
    end
    state.is_stored, states[names[at]] = text and true, state
  end

  -- 2. Instances leave.
  for id, how in pairs(leavers) do
    local instance = known[id]
    local state, letter = states[instance.key], instance.letter
    if letter == 'q' then
      state.admitted = max(0, state.admitted - 1)
      local at = find(state.last, id, 1, true)
      if at then
        state.last = sub(state.last, 1, at - 1) .. sub(state.last, find(state.last, ',', at, true) + 1)
      end
    elseif letter == 'w' or letter == 'W' then
      state.waiting, state.left = max(0, state.waiting - 1), state.left or {}
      state.left[#state.left + 1], state.left[instance.time .. id] = id, true
      add('ZREM', waiting_key(kind, instance.key), instance.time .. id)
    end
    if how == 'over' then
      add('HDEL', g, id)
    elseif state then
      change(instance, '-', NO_TIME)
    end
  end

  -- 3. Instances come. One without a key passes no gate.
  for _, instance in ipairs(came) do
    local left = instance.left
    if left then
      instance.letter, instance.concurrency, instance.key = left.letter, left.concurrency, left.key
    end
    local state = states[instance.key]
    if not state or instance.letter == 'q' then
      add_to_queue(instance.id, kind, instance.score, instance.due, instance.suspect, true)
    elseif instance.letter == '-' then
      if instance.is_new or not state.is_stored and not state.came then
        state.concurrency = unpack_text('>I4', instance.concurrency)
      end
      instance.member = ready_member(instance.due, instance.id)
      state.came = state.came or {}
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
    add_pair('ZADD', waiting_key(kind, instance.key), instance.score, instance.member)
    change(instance, instance.suspect and 'W' or 'w', sub(instance.member, 1, 16))
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
  local waited = {}
  for _, key in ipairs(names) do
    local state = states[key]
    local came_here, next_came, at = state.came or {}, 1, 1
    local room, queue = (own or state.concurrency) - state.admitted, {}
    if room > 0 and state.waiting > 0 then
      queue = call('ZRANGE', waiting_key(kind, key), 0, room + #(state.left or {}) - 1, 'WITHSCORES')
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
        first = {member = queue[at], score = queue[at + 1], priority = tonumber(queue[at + 1])}
      end
      if first and not (instance and precedes_other(instance, first)) then
        first.id, at = sub(first.member, 17), at + 2
        add('ZREM', waiting_key(kind, key), first.member)
        state.waiting = max(0, state.waiting - 1)
        waited[#waited + 1] = first
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
    if state.admitted + state.waiting > 0 then
      add_pair('HSET', n, key, pack(COUNTS, state.admitted, state.concurrency, state.waiting) .. state.last)
    elseif state.is_stored then
      add('HDEL', n, key)
    end
  end

  -- 5. Those that passed enter the queue.
  read(waited)
  for _, instance in ipairs(passing) do
    local suspect = instance.suspect or instance.letter == 'W'
    if instance.key then
      change(instance, 'q', instance.due and sub(instance.member, 1, 16) or format('%016.0f', now))
    end
    add_to_queue(instance.id, kind, instance.score, instance.place, suspect, true)
  end
  for id, instance in pairs(changed) do
    if leavers[id] ~= 'over' then
      add_pair('HSET', g, id, instance.letter .. instance.time .. instance.concurrency .. instance.key)
    end
  end
  if newly_due[kind] and newly_due[kind] <= 0 then
    newly_due[kind] = nil
  end
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
