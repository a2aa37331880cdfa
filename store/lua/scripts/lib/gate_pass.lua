-- Instances pass the gates of their keys. A script does this once, after it has planned all else but its wakes: an
-- instance that the script cancels must not pass. A claim also does it after it has moved delayed instances.

-- Pass the gates of one kind. `keys`: further keys of which instances can pass. Return whether more could pass than a
-- script may let pass.
local pass_kind = gates and function(kind, keys)
  local NO_TIME, NOTHING = '0000000000000000', {}
  local QUEUED, AWAY = byte('q'), byte('-')
  local g, n, all_waiting = kind_key('g', kind), kind_key('n', kind), waiting_key(kind, '')
  local leavers, came, groups = gates.leaving[kind] or NOTHING, gates.coming[kind] or NOTHING, gates.new[kind] or NOTHING
  local rule = shared.rule(kind)
  local own = rule and rule.own > 0 and rule.own
  local moves, states, names, counts = gate_moves(kind, own), {}, {}, pending_list('HSET', n)
  local filled = #counts

  local function touch(key)
    if states[key] == nil then
      names[#names + 1], states[key] = key, false
    end
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
    if is_whole_entry(texts[at]) then
      keys_of[at] = sub(texts[at], 22)
      touch(keys_of[at])
    end
  end
  local ids_returning = {}
  for at, instance in ipairs(came) do
    ids_returning[at] = instance.id
  end
  for at, text in ipairs(came[1] and call('HMGET', g, unpack(ids_returning)) or NOTHING) do
    local instance, _ = came[at], nil
    instance.letter, _, instance.concurrency, instance.key = parsed_entry(text)
    if instance.key then
      touch(instance.key)
    end
  end
  for _, group in ipairs(groups) do
    for _, key in ipairs(group.keys) do
      touch(key)
    end
  end
  for _, key in ipairs(keys) do
    touch(key)
  end
  local is_unused = names[1] and true
  for at, text in ipairs(names[1] and call('HMGET', n, unpack(names)) or NOTHING) do
    states[names[at]] = key_state(text, n, all_waiting, names[at])
    is_unused = is_unused and not text
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
        moves.write(id, '-' .. NO_TIME .. sub(text, 18))
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
  for _, group in ipairs(groups) do
    local shape, number = group.shape, unpack_text('>I4', group.packed)
    for at, key in ipairs(group.keys) do
      local state = states[key]
      state.concurrency = shape.keeps and state.concurrency > 0 and state.concurrency or number
      come(state, {id = group.ids[at], score = shape.priority, due = shape.due, suspect = shape.suspect,
        concurrency = group.packed})
    end
  end

  -- 4. Instances pass.
  for _, key in ipairs(names) do
    local state = states[key]
    if state.came or state.waiting > 0 and state.admitted < moves.most(state) then
      moves.pass(state, key)
    end
    if state.admitted + state.waiting > 0 then
      counts[filled + 1] = key
      counts[filled + 2] = pack(GATE_COUNTS, state.admitted, state.concurrency, state.waiting) .. state.last
      filled = filled + 2
    else
      add('HDEL', n, key)
    end
  end
  if newly_due[kind] and newly_due[kind] <= 0 then
    newly_due[kind] = nil
  end
  pending.HSET[g], pending.HSET[n] = of_table(pending.HSET[g], gates.unused[kind]), of_table(counts, is_unused)
  return moves.was_cut
end
