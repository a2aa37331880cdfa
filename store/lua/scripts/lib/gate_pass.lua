-- Instances pass the gates of their keys. A script does this once, after it has planned all else but its wakes: an
-- instance that the script cancels must not pass. A claim also does it after it has moved delayed instances.

-- Pass the gates of one kind. `keys`: further keys of which instances can pass. Return whether more could pass than a
-- script may let pass.
local pass_kind = gates and function(kind, keys)
  local NO_TIME, NOTHING = '0000000000000000', {}
  local QUEUED, AWAY = byte('q'), byte('-')
  local g, n, all_waiting = kind_key('g', kind), kind_key('n', kind), waiting_key(kind, '')
  local leavers, came, groups = gates.leaving[kind] or NOTHING, gates.coming[kind] or NOTHING, gates.new[kind] or NOTHING
  local rule, only = shared.rule(kind), not groups[2] and groups[1]
  local own = rule and rule.own > 0 and rule.own
  local moves, states, names, changes, counts = gate_moves(kind, own), {}, {}, {}, pending_list('HSET', n)
  local write, most_of, filled = moves.write, moves.most, #counts

  -- Keep a key and a change of it as in counts_after, or false for another change.
  local function touch(key, change)
    local before = changes[key]
    if before == nil then
      names[#names + 1], changes[key] = key, change
    else
      changes[key] = before and change and before * change > 0 and before + change
    end
  end

  -- 1. Read the entries of the instances, and the states of their keys. A key has none if its entry shows what follows.
  -- check_limits.lua finds a damaged entry.
  local ids, texts, keys_of = {}, NOTHING, {}
  for id in pairs(leavers) do
    ids[#ids + 1] = id
  end
  if ids[1] then
    texts = call('HMGET', g, unpack(ids))
  end
  for at = 1, #ids do
    local text = texts[at]
    if gates.is_whole(text) then
      keys_of[at] = sub(text, 22)
      touch(keys_of[at], byte(text) == QUEUED and -1)
    end
  end
  local ids_returning = {}
  for at, instance in ipairs(came) do
    ids_returning[at] = instance.id
  end
  for at, text in ipairs(came[1] and call('HMGET', g, unpack(ids_returning)) or NOTHING) do
    local instance, _ = came[at], nil
    instance.letter, _, instance.concurrency, instance.key = gates.parsed(text)
    if instance.key then
      touch(instance.key, false)
    end
  end
  for _, group in ipairs(groups) do
    for _, key in ipairs(group.keys) do
      touch(key, only and 1)
    end
  end
  for _, key in ipairs(keys) do
    touch(key, false)
  end
  local concurrency = only and unpack_text('>I4', only.packed)
  local is_unused, known, most = names[1] and true, {}, own or concurrency
  for at, text in ipairs(names[1] and call('HMGET', n, unpack(names)) or NOTHING) do
    local key = names[at]
    local change = changes[key]
    local after = change and counts_after(known, text or NO_COUNTS, change, concurrency, most)
    if not after then
      states[key] = key_state(text, all_waiting, key)
    elseif after ~= '' then
      counts[filled + 1], counts[filled + 2], filled = key, after, filled + 2
    else
      add('HDEL', n, key)
    end
    is_unused = is_unused and not text
  end
  is_unused = is_unused and call('HLEN', n) == 0

  -- 2. Instances leave.
  local gone_ids = NOTHING
  for at, id in ipairs(ids) do
    local key, text = keys_of[at], texts[at]
    if key then
      local state, letter = states[key], byte(text)
      if state and letter == QUEUED then
        leave_admitted(state, id)
      elseif state and letter ~= AWAY then
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
      if state.concurrency == 0 then
        state.concurrency = unpack_text('>I4', instance.concurrency)
      end
      come(state, instance)
    end
  end
  for _, group in ipairs(next(states) and groups or NOTHING) do
    local number = unpack_text('>I4', group.packed)
    for _, key in ipairs(group.keys) do
      local state = states[key]
      if state then
        state.concurrency, state.new = number, state.new + 1
      end
    end
  end

  -- 4. Instances pass. Of new ones with one template, all pass if there is room for them and no other one comes, and all
  -- wait if there is no room and the last admitted one has the same priority. With several templates, `pass` sorts them:
  -- the last admitted one must be the worst.
  for _, group in ipairs(groups) do
    local shape, packed, new_ids, new_keys = group.shape, group.packed, group.ids, group.keys
    local score, due, suspect = shape.priority, shape.due, shape.suspect
    local same, place = score .. ',', ready_member(due, '')
    for at = 1, #new_ids do
      local id, key = new_ids[at], new_keys[at]
      local state = states[key]
      local is_alone = state and only and not state.came
      if not state then
        add_to_queue(id, kind, score, due, suspect, true)
        write(id, 'q' .. place .. packed .. key)
      elseif is_alone and state.waiting == 0 and state.admitted + state.new <= most_of(state) then
        state.new = state.new - 1
        moves.admit(state, id, score, due, suspect, packed, key)
      elseif is_alone and state.admitted >= most_of(state) and moves.has_last(state, same) then
        moves.wait(state, id, score, place, suspect, packed, key)
      else
        come(state, {id = id, score = score, due = due, suspect = suspect, concurrency = packed})
      end
    end
  end

  for _, key in ipairs(names) do
    local state = states[key]
    if state and (state.came or state.waiting > 0 and state.admitted < most_of(state)) then
      moves.pass(state, key)
    end
    if state and state.admitted + state.waiting > 0 then
      counts[filled + 1] = key
      counts[filled + 2] = pack(GATE_COUNTS, state.admitted, state.concurrency, state.waiting) .. state.last
      filled = filled + 2
    elseif state then
      add('HDEL', n, key)
    end
  end
  if newly_due[kind] and newly_due[kind] <= 0 then
    newly_due[kind] = nil
  end
  pending.HSET[g], pending.HSET[n] = of_table(pending.HSET[g], gates.unused[kind]), of_table(counts, is_unused)
  return moves.was_cut
end
