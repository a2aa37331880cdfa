-- Instances pass the gates of their keys. A script does this once, after it has planned all else but its wakes: an
-- instance that the script cancels must not pass. A claim also does it after it has moved delayed instances.

-- Pass the gates of one kind. `keys` have further keys whose waiting instances can pass.
local pass_kind = gates and function(kind, keys)
  local MAX_LAST = 320
  local g, n = kind_key('g', kind), kind_key('n', kind)
  local leavers, came, new = gates.leaving[kind] or {}, gates.coming[kind] or {}, gates.new[kind] or {}
  local rule = shared.rule(kind)
  local entries, states, passing = {}, {}, {}

  local function read(ids)
    for at, text in ipairs(ids[1] and call('HMGET', g, unpack(ids)) or {}) do
      local letter, time, number, key = gates.parsed(text)
      entries[ids[at]] = letter and {letter = letter, time = time, number = number, key = key} or nil
    end
  end
  local function write(id, row)
    add_pair('HSET', g, id, row.letter .. row.time .. ' ' .. row.number .. ' ' .. row.key)
  end

  -- 1. Read the entries of the instances, and the states of their keys.
  local ids = {}
  for id in pairs(leavers) do
    ids[#ids + 1] = id
  end
  for _, instance in ipairs(came) do
    if not new[instance.id] and not leavers[instance.id] then
      ids[#ids + 1] = instance.id
    end
  end
  read(ids)
  for id, text in pairs(new) do
    local number, key = match(text, '^(%d+) (.+)$')
    entries[id] = {letter = '-', time = '', number = number, key = key, is_new = true}
  end
  local names = {}
  local function touch(key)
    if states[key] == nil then
      names[#names + 1], states[key] = key, false
    end
  end
  for _, row in pairs(entries) do
    touch(row.key)
  end
  for _, key in ipairs(keys) do
    touch(key)
  end
  for at, text in ipairs(names[1] and call('HMGET', n, unpack(names)) or {}) do
    local admitted, number, waiting, last = match(text or '', '^(%d+) (%d+) (%d+) (.*)$')
    local queue = waiting_key(kind, names[at])
    -- For a damaged state, the key begins anew, with the instances that wait.
    states[names[at]] = {is_stored = text ~= false, admitted = tonumber(admitted or 0), number = tonumber(number or 0),
      waiting = tonumber(waiting or text and call('ZCARD', queue) or 0), last = last or '', queue = queue, came = {}, left = {},
      left_count = 0}
  end

  -- 2. Instances leave.
  for id, how in pairs(leavers) do
    local row = entries[id]
    local state = row and states[row.key]
    if state and row.letter == 'q' then
      state.admitted = max(0, state.admitted - 1)
      local at = find(state.last, id, 1, true)
      if at then
        state.last = sub(state.last, 1, at - 1) .. sub(state.last, find(state.last, ',', at, true) + 1)
      end
    elseif state and row.letter ~= '-' then
      local member = row.time .. id
      state.waiting, state.left[member], state.left_count = max(0, state.waiting - 1), true, state.left_count + 1
      add('ZREM', state.queue, member)
    end
    if how == 'over' then
      add('HDEL', g, id)
    elseif state then
      row.letter, row.time, row.is_changed = '-', '', true
    end
  end

  -- 3. Instances come. One without a key passes no gate.
  for _, instance in ipairs(came) do
    local row = entries[instance.id]
    local state = row and states[row.key]
    if not state or row.letter == 'q' then
      add_to_queue(instance.id, kind, instance.priority, instance.due, instance.suspect, true)
    elseif row.letter == '-' then
      if row.is_new or not state.is_stored and not state.came[1] then
        state.number = tonumber(row.number)
      end
      instance.member, instance.row = ready_member(instance.due, instance.id), row
      state.came[#state.came + 1] = instance
    end
  end

  local function precedes_other(one, other)
    return one.priority < other.priority or one.priority == other.priority and one.member < other.member
  end

  local function admit(state, instance, place)
    instance.place, passing[#passing + 1] = place, instance
    state.admitted = state.admitted + 1
    state.last = state.last .. instance.id .. digits(instance.priority) .. ','
    while #state.last > MAX_LAST do
      state.last = sub(state.last, find(state.last, ',', 1, true) + 1)
    end
  end

  local function wait(state, instance)
    local row = instance.row
    add_pair('ZADD', state.queue, instance.priority, instance.member)
    row.letter, row.time, row.is_changed = instance.suspect and 'W' or 'w', sub(instance.member, 1, 16), true
    state.waiting = state.waiting + 1
  end

  -- If the last admitted instance is queued, and has a worse priority than one that came, the two change places. It was
  -- admitted earlier: one that this script admits precedes all that it does not admit.
  local function change_places(state, instance)
    local id, priority = match(state.last, '([^,]+),$'), nil
    if id then
      id, priority = sub(id, 1, ID_SIZE), tonumber(sub(id, ID_SIZE + 1))
    end
    if not priority or priority <= instance.priority then
      return
    end
    local record = decode(call('MGET', record_key(id))[1])
    read({id})
    local row = entries[id]
    if record and record.state == SCHEDULED and row and row.letter == 'q' then
      local suspect = is_suspect(record)
      add('ZREM', prepare_queue(kind, suspect, true), row.time .. id)
      state.last, state.admitted = sub(state.last, 1, find(state.last, id, 1, true) - 1), state.admitted - 1
      wait(state, {member = ready_member(record.due, id), priority = priority, suspect = suspect, row = row})
      admit(state, instance, instance.due)
      -- Nodes were woken for the other one.
      newly_due[kind] = (newly_due[kind] or 0) - 1
    end
  end

  -- 4. As many as there is room for pass: of those that waited and those that came, in the order of the queue.
  for _, key in ipairs(names) do
    local state = states[key]
    local room = (rule and rule.own > 0 and rule.own or state.number) - state.admitted
    local waiting = room > 0 and state.waiting > 0
      and call('ZRANGE', state.queue, 0, room + state.left_count - 1, 'WITHSCORES') or {}
    if state.came[2] then
      table.sort(state.came, precedes_other)
    end
    local at, next_came = 1, 1
    while room > 0 do
      while waiting[at] and state.left[waiting[at]] do
        at = at + 2
      end
      local first, instance = waiting[at] and {member = waiting[at], priority = tonumber(waiting[at + 1])}, state.came[next_came]
      if first and not (instance and precedes_other(instance, first)) then
        first.id, first.key, at = sub(first.member, 17), key, at + 2
        add('ZREM', state.queue, first.member)
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
    if state.came[next_came] then
      change_places(state, state.came[next_came])
    end
    for _, instance in ipairs({unpack(state.came, next_came)}) do
      if not instance.place then
        wait(state, instance)
      end
    end
    if state.admitted + state.waiting > 0 then
      add_pair('HSET', n, key, table.concat({state.admitted, state.number, state.waiting, state.last}, ' '))
    elseif state.is_stored then
      add('HDEL', n, key)
    end
  end

  -- 5. Those that passed enter the queue.
  ids = {}
  for _, instance in ipairs(passing) do
    ids[#ids + 1] = not instance.row and instance.id or nil
  end
  read(ids)
  for _, instance in ipairs(passing) do
    local row = instance.row or entries[instance.id] or {number = digits(states[instance.key].number), key = instance.key}
    local suspect = instance.suspect or not instance.row and row.letter == 'W'
    row.letter, row.time, row.is_changed = 'q', format('%016.0f', instance.place), true
    entries[instance.id] = row
    add_to_queue(instance.id, kind, instance.priority, instance.place, suspect, true)
  end
  for id, row in pairs(entries) do
    if (row.is_changed or row.is_new) and leavers[id] ~= 'over' then
      write(id, row)
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
