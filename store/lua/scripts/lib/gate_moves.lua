-- Instances pass the gate of a kind, or wait there. An instance that comes is a table: id, score (its priority as text),
-- due, suspect, concurrency (as in `g:`), and member (its place in a queue, or nil); of one that is not new, also key and
-- letter (that of its entry). This runs for each job with a key, so the code makes few tables and texts.

-- Return the moves of instances of a kind. `own`: the set concurrency of its keys, or nil.
local gate_moves = gates and function(kind, own)
  -- MAX_PASSED: besides those that follow instances that leave, so many waiting instances pass at most
  local MAX_PASSED, NOTHING = 200, {}
  local g, all_waiting = kind_key('g', kind), waiting_key(kind, '')
  local entries, openable = pending_list('HSET', g), MAX_PASSED
  local written = #entries
  -- `was_cut`: whether more could pass than a script may let pass
  local self = {was_cut = false}

  function self.write(id, text)
    entries[written + 1], entries[written + 2] = id, text
    written = written + 2
  end

  function self.most(state)
    return own or max(1, state.concurrency)
  end

  local function member_of(instance)
    instance.member = instance.member or ready_member(instance.due, instance.id)
    return instance.member
  end

  -- An instance passes: it enters the queue. `place`: its due time, or the present time if it waited. The beginning of its
  -- entry is kept: most instances of a batch have the same one.
  local begin, begin_place, begin_concurrency = nil, nil, nil
  function self.admit(state, id, score, place, suspect, concurrency, key)
    add_to_queue(id, kind, score, place, suspect, true)
    if place ~= begin_place or concurrency ~= begin_concurrency then
      begin, begin_place, begin_concurrency = 'q' .. ready_member(place, '') .. concurrency, place, concurrency
    end
    self.write(id, begin .. key)
    state.admitted = state.admitted + 1
    if state.admitted + NEAR < self.most(state) then
      state.last = ''
    else
      state.last = last_with('', state.last, id, score)
    end
  end

  local wait_begin, wait_end, wait_place, wait_letter, wait_concurrency = nil, nil, nil, nil, nil
  function self.wait(state, id, score, place, suspect, concurrency, key)
    local letter = suspect and 'W' or 'w'
    if place ~= wait_place or letter ~= wait_letter or concurrency ~= wait_concurrency then
      wait_begin, wait_end = letter .. place .. concurrency, letter .. concurrency
      wait_place, wait_letter, wait_concurrency = place, letter, concurrency
    end
    check_zset(all_waiting .. key)
    add_pair('ZADD', all_waiting .. key, score, place .. id .. wait_end)
    self.write(id, wait_begin .. key)
    state.waiting = state.waiting + 1
  end

  -- Return the entry of `last` of the last instance of a key in the queue, among the last MAX_LOOKED of all keys. It stands for
  -- the last admitted one of a key that was far from full until its concurrency became lower.
  local function last_queued(key)
    local MAX_LOOKED = 100
    local found, ids = call('ZRANGE', ready_key(kind), -MAX_LOOKED, -1, 'WITHSCORES'), {}
    for at = 1, #found, 2 do
      ids[#ids + 1] = sub(found[at], 17)
    end
    local texts = ids[1] and call('HMGET', g, unpack(ids)) or NOTHING
    for at = #ids, 1, -1 do
      local letter, _, _, of = parsed_entry(texts[at])
      if letter == 'q' and of == key and not (gates.leaving[kind] or NOTHING)[ids[at]] then
        return ids[at] .. found[2 * at] .. ','
      end
    end
    return ''
  end

  -- If the last admitted instance is queued, and has a worse priority than one that came, the two change places. It was
  -- admitted earlier: one that this script admits precedes all that it does not admit. Return whether they did.
  local function change_places(state, instance, key)
    if has_last(state.last, instance.score .. ',') then
      return false
    end
    if state.last == '' then
      state.last = last_queued(key)
    end
    local text = match(state.last, '([^,]+),$')
    local id, score = sub(text or '', 1, ID_SIZE), sub(text or '', ID_SIZE + 1)
    if not tonumber(score) or score - instance.score <= 0 then
      return false
    end
    local record, letter, time, concurrency = decode(call('MGET', record_key(id))[1]), parsed_entry(call('HGET', g, id))
    if not record or record.state ~= SCHEDULED or letter ~= 'q' then
      return false
    end
    local suspect = is_suspect(record)
    add('ZREM', prepare_queue(kind, suspect, true), time .. id)
    state.last, state.admitted = sub(state.last, 1, -#text - 2), state.admitted - 1
    self.wait(state, id, score, ready_member(record.due, ''), suspect, concurrency, key)
    self.admit(state, instance.id, instance.score, instance.due, instance.suspect, instance.concurrency, key)
    -- Nodes were woken for the other one.
    newly_due[kind] = (newly_due[kind] or 0) - 1
    return true
  end

  -- As many as there is room for pass: of those that waited and those that came, in the order of the queue.
  function self.pass(state, key)
    local came_here, next_came, queue, at = state.came or NOTHING, 1, NOTHING, 1
    local room, queue_key = self.most(state) - state.admitted, nil
    if room > 0 and state.waiting > 0 then
      if room > state.freed + openable then
        room = state.freed + openable
        self.was_cut = self.was_cut or state.waiting > room
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
        self.admit(state, sub(member, 17, 52), score, now, byte(member, 53) == 87, sub(member, 54), key)
      elseif instance then
        next_came = next_came + 1
        self.admit(state, instance.id, instance.score, instance.due, instance.suspect, instance.concurrency, key)
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
      local place = ready_member(instance.due, '')
      self.wait(state, instance.id, instance.score, place, instance.suspect, instance.concurrency, key)
    end
  end

  return self
end
