-- Instances pass the gates of their keys. A script does this once, after it has planned all else but its wakes: an
-- instance that the script cancels must not pass. A claim also does it after it has moved delayed instances.
-- An instance that comes is a table: id, score (its priority as text), due, suspect, concurrency (as in `g:`), and member
-- (its place in a queue, or nil); of one that is not new, also key and letter (that of its entry). This runs for each job
-- with a key, so the code makes few tables and texts.

-- Pass the gates of one kind. `keys`: further keys of which instances can pass. Return whether more could pass than a
-- script may let pass.
local pass_kind = gates and function(kind, keys)
  -- MAX_PASSED: besides those that follow instances that leave, so many waiting instances pass at most
  local MAX_PASSED, NO_TIME, NOTHING = 200, '0000000000000000', {}
  local QUEUED, AWAY = byte('q'), byte('-')
  local g, n, all_waiting = kind_key('g', kind), kind_key('n', kind), waiting_key(kind, '')
  local leavers, came, new = gates.leaving[kind] or NOTHING, gates.coming[kind] or NOTHING, gates.new[kind] or NOTHING
  local rule = shared.rule(kind)
  local own = rule and rule.own > 0 and rule.own
  local states, names, openable, was_cut = {}, {}, MAX_PASSED, false
  local entries, counts = pending_list('HSET', g), pending_list('HSET', n)
  local written = #entries

  local function touch(key)
    if key and not states[key] then
      names[#names + 1], states[key] = key, NOTHING
    end
  end

  local function write(id, text)
    entries[written + 1], entries[written + 2] = id, text
    written = written + 2
  end

  -- 1. Read the entries of the instances, and the states of their keys. check_limits.lua finds a damaged entry.
  local ids, texts, keys_of = {}, NOTHING, {}
  for id in pairs(leavers) do
    ids[#ids + 1] = id
  end
  if ids[1] then
    texts = call('HMGET', g, unpack(ids))
  end
  for at = 1, #ids do
    keys_of[at] = gates.is_whole(texts[at]) and sub(texts[at], 22)
    touch(keys_of[at])
  end
  local ids_returning = {}
  for at, instance in ipairs(came) do
    ids_returning[at] = instance.id
  end
  for at, text in ipairs(came[1] and call('HMGET', g, unpack(ids_returning)) or NOTHING) do
    local instance, _ = came[at], nil
    instance.letter, _, instance.concurrency, instance.key = gates.parsed(text)
    touch(instance.key)
  end
  for at = 4, #new, 4 do
    touch(new[at])
  end
  for _, key in ipairs(keys) do
    touch(key)
  end
  local is_unused = names[1] and true
  for at, text in ipairs(names[1] and call('HMGET', n, unpack(names)) or NOTHING) do
    states[names[at]], is_unused = key_state(text, all_waiting, names[at]), is_unused and not text
  end
  is_unused = is_unused and call('HLEN', n) == 0

  -- 2. Instances leave.
  local gone_ids = NOTHING
  for at, id in ipairs(ids) do
    local key, text = keys_of[at], texts[at]
    if key then
      local state, letter = states[key], byte(text)
      if letter == QUEUED then
        leave_admitted(state, id)
      elseif letter ~= AWAY then
        local member = sub(text, 2, 17) .. id .. sub(text, 1, 1) .. sub(text, 18, 21)
        state.waiting, state.left = max(0, state.waiting - 1), state.left or {}
        state.left[#state.left + 1], state.left[member] = id, true
        add('ZREM', all_waiting .. key, member)
      end
      if leavers[id] == 'over' then
        gone_ids = gone_ids ~= NOTHING and gone_ids or pending_list('HDEL', g)
        gone_ids[#gone_ids + 1] = id
      else
        write(id, '-' .. NO_TIME .. sub(text, 18))
      end
    end
  end

  -- 3. Instances come. One without a key passes no gate.
  local function come(state, instance)
    state.came = state.came or {}
    state.came[#state.came + 1] = instance
  end

  for _, instance in ipairs(came) do
    local state, letter = states[instance.key or ''], leavers[instance.id] and '-' or instance.letter
    if not state or letter == 'q' then
      add_to_queue(instance.id, kind, instance.score, instance.due, instance.suspect, true)
    elseif letter == '-' then
      if not state.is_stored and not state.came then
        state.concurrency = unpack_text('>I4', instance.concurrency)
      end
      come(state, instance)
    end
  end
  local numbers = {}
  for at = 4, #new, 4 do
    local state, packed, shape = states[new[at]], new[at - 1], new[at - 2]
    numbers[packed] = numbers[packed] or unpack_text('>I4', packed)
    state.concurrency, state.new = numbers[packed], state.new + 1
    state.is_mixed, state.shape = state.is_mixed or state.shape and state.shape ~= shape, shape
  end

  local function member_of(instance)
    instance.member = instance.member or ready_member(instance.due, instance.id)
    return instance.member
  end

  -- An instance passes: it enters the queue. `place`: its due time, or the present time if it waited. The beginning of its
  -- entry is kept: most instances of a batch have the same one.
  local begin, begin_place, begin_concurrency = nil, nil, nil
  local function admit(state, id, score, place, suspect, concurrency, key)
    add_to_queue(id, kind, score, place, suspect, true)
    if place ~= begin_place or concurrency ~= begin_concurrency then
      begin, begin_place, begin_concurrency = 'q' .. ready_member(place, '') .. concurrency, place, concurrency
    end
    write(id, begin .. key)
    state.admitted = state.admitted + 1
    if state.admitted + NEAR < (own or state.concurrency) then
      state.last = ''
    else
      state.last = state.last .. id .. score .. ','
      if #state.last > MAX_LAST then
        state.last = sub(state.last, find(state.last, ',', 1, true) + 1)
      end
    end
  end

  local function wait(state, id, score, member, suspect, concurrency, key)
    local letter = suspect and 'W' or 'w'
    add_pair('ZADD', all_waiting .. key, score, member .. letter .. concurrency)
    write(id, letter .. sub(member, 1, 16) .. concurrency .. key)
    state.waiting = state.waiting + 1
  end

  -- If the last admitted instance is queued, and has a worse priority than one that came, the two change places. It was
  -- admitted earlier: one that this script admits precedes all that it does not admit. Return whether they did.
  local function change_places(state, instance, key)
    local same = instance.score .. ','
    if #state.last == ID_SIZE + #same and sub(state.last, -#same) == same then
      return false
    end
    local text = match(state.last, '([^,]+),$')
    local id, score = sub(text or '', 1, ID_SIZE), sub(text or '', ID_SIZE + 1)
    if not tonumber(score) or score - instance.score <= 0 then
      return false
    end
    local record, letter, time, concurrency = decode(call('MGET', record_key(id))[1]), gates.parsed(call('HGET', g, id))
    if not record or record.state ~= SCHEDULED or letter ~= 'q' then
      return false
    end
    local suspect = is_suspect(record)
    add('ZREM', prepare_queue(kind, suspect, true), time .. id)
    state.last, state.admitted = sub(state.last, 1, -#text - 2), state.admitted - 1
    wait(state, id, score, ready_member(record.due, id), suspect, concurrency, key)
    admit(state, instance.id, instance.score, instance.due, instance.suspect, instance.concurrency, key)
    -- Nodes were woken for the other one.
    newly_due[kind] = (newly_due[kind] or 0) - 1
    return true
  end

  -- 4. As many as there is room for pass: of those that waited and those that came, in the order of the queue.
  local function pass(state, key)
    local came_here, next_came, queue, at = state.came or NOTHING, 1, NOTHING, 1
    local room, queue_key = (own or max(1, state.concurrency)) - state.admitted, nil
    if room > 0 and state.waiting > 0 then
      if room > state.freed + openable then
        room = state.freed + openable
        was_cut = was_cut or state.waiting > room
      end
      queue_key = all_waiting .. key
      queue = call('ZRANGE', queue_key, 0, room + #(state.left or NOTHING) - 1, 'WITHSCORES')
      openable = openable - max(0, min(room, #queue / 2) - state.freed)
    end
    if came_here[2] then
      table.sort(came_here, function(one, other)
        return passes_first(one.score, member_of(one), other.score, member_of(other))
      end)
    end
    while room > 0 do
      while queue[at] and state.left and state.left[queue[at]] do
        at = at + 2
      end
      local instance, member, score = came_here[next_came], queue[at], queue[at + 1]
      if member and not (instance and passes_first(instance.score, member_of(instance), score, member)) then
        at = at + 2
        add('ZREM', queue_key, member)
        state.waiting = max(0, state.waiting - 1)
        admit(state, sub(member, 17, 52), score, now, byte(member, 53) == 87, sub(member, 54), key)
      elseif instance then
        next_came = next_came + 1
        admit(state, instance.id, instance.score, instance.due, instance.suspect, instance.concurrency, key)
      else
        break
      end
      room = room - 1
    end
    if came_here[next_came] and change_places(state, came_here[next_came], key) then
      next_came = next_came + 1
    end
    for rest = next_came, #came_here do
      local instance = came_here[rest]
      wait(state, instance.id, instance.score, member_of(instance), instance.suspect, instance.concurrency, key)
    end
  end

  -- Of new instances with one template, all pass if there is room for them and for no other one. With several templates,
  -- `pass` sorts them: the last admitted one must be the worst.
  for at = 4, #new, 4 do
    local key, concurrency, shape, id = new[at], new[at - 1], new[at - 2], new[at - 3]
    local state = states[key]
    local has_room = state.admitted + state.new <= (own or max(1, state.concurrency))
    if has_room and state.waiting == 0 and not state.came and not state.is_mixed then
      state.new = state.new - 1
      admit(state, id, shape.priority, shape.due, shape.suspect, concurrency, key)
    else
      come(state, {id = id, score = shape.priority, due = shape.due, suspect = shape.suspect, concurrency = concurrency})
    end
  end

  for _, key in ipairs(names) do
    local state, size = states[key], #counts
    if state.came or state.waiting > 0 then
      pass(state, key)
    end
    if state.admitted + state.waiting > 0 then
      counts[size + 1] = key
      counts[size + 2] = pack(GATE_COUNTS, state.admitted, state.concurrency, state.waiting) .. state.last
    elseif state.is_stored then
      add('HDEL', n, key)
    end
  end
  if newly_due[kind] and newly_due[kind] <= 0 then
    newly_due[kind] = nil
  end
  pending.HSET[g], pending.HSET[n] = of_table(entries, gates.unused[kind]), of_table(counts, is_unused)
  return was_cut
end
