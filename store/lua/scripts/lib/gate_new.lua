-- The usual way of new instances of one template through the gate of their kind: they pass, or wait. gate_pass.lua does the
-- rest.

-- Return what becomes of new instances, with nothing planned: arguments of an HSET of `n:`, of an HSET of `g:`, and of a ZADD
-- of the queue; key -> arguments of a ZADD of its set of waiting instances; key -> true for each of these sets that becomes a
-- table; whether `n:` has none of the keys; key -> true for each key that needs more, whose instances are in no argument,
-- or nil. `most`: how many of a key can be admitted. `place`: the due time in 16 digits.
local come_to_keys = gates and function(n, ids, keys, score, place, packed, concurrency, most, suspect)
  local names, places = grouped(keys, 1)
  local known, unusual, is_unused, same, ascends = {}, nil, true, score .. ',', nil
  local counts, filled, entries, written, queue, queued, waits, many = {}, 0, {}, 0, {}, 0, {}, {}
  -- `held`: key -> the beginning of an entry that gets waiting instances, '' if the first one passes; `beginnings`: its first
  -- bytes by their number. `fulls`: key -> the counts of a nearly full one; `rooms`: how many still pass before others
  -- wait; `lasts`: its last admitted instances, false if it keeps none
  local held, beginnings, may_hold, fulls, rooms, lasts = {}, {}, most == 1 and concurrency == 1 and not suspect, {}, {}, {}

  local function are_in_order()
    if ascends == nil then
      ascends = true
      for at = 2, #ids do
        ascends = ascends and ids[at - 1] < ids[at]
      end
    end
    return ascends
  end

  -- Let new instances wait in the entry of a key, behind an admitted one. Return whether that is possible.
  local function hold(text, key, count)
    local can_wait = text and can_hold(text, same, count, place) or not text and count <= MAX_HELD
    if can_wait and (count == 1 or are_in_order()) then
      local waiting = text and byte(text, 12) + count or count - 1
      beginnings[waiting] = beginnings[waiting] or held_counts(waiting)
      held[key] = text and beginnings[waiting] .. sub(text, 13) or ''
      return true
    end
  end

  -- Let new instances of a nearly full key pass, and then wait in its set. Return whether that is possible.
  local function fill(text, key, count)
    local members, rest = without_held(text)
    text = rest or text
    if byte(text) ~= 0 or #text > 12 and byte(text, -1) ~= 44 then
      return false
    end
    local admitted, _, waiting = unpack_text(GATE_COUNTS, text)
    local last, room = sub(text, 13), max(0, most - admitted)
    if room > 0 and (waiting > 0 or count > 1 and not are_in_order()) or room == 0 and not has_last(last, same) then
      return false
    end
    local passing = min(room, count)
    many[key] = waiting < MANY_WAITING and waiting + count - passing >= MANY_WAITING or nil
    rooms[key], lasts[key] = passing, admitted + passing + NEAR >= most and last
    waits[key] = members or passing < count and {} or nil
    fulls[key] = pack(GATE_COUNTS, admitted + passing, concurrency, waiting + count - passing)
    return true
  end

  for at, text in ipairs(call('HMGET', n, unpack(names))) do
    local key, coming = names[at], places[names[at]]
    local count = coming > 0 and 1 or -coming
    is_unused = is_unused and not text
    local after = (not text or #text == 12) and counts_after(known, text or NO_COUNTS, count, concurrency, most)
    if after then
      counts[filled + 1], counts[filled + 2], filled = key, after, filled + 2
    elseif not (may_hold and hold(text, key, count) or fill(text or NO_COUNTS, key, count)) then
      unusual = unusual or {}
      unusual[key] = true
    end
  end

  local passing, waiting = 'q' .. place .. packed, (suspect and 'W' or 'w') .. place .. packed
  local waiting_end, all_pass = sub(waiting, 1, 1) .. packed, not (unusual or next(held) or next(fulls))
  for at = 1, #ids do
    local id, key, begin = ids[at], keys[at], passing
    if all_pass then
      begin = passing
    elseif held[key] == '' then
      held[key] = beginnings[max(0, -places[key] - 1)] .. id .. same
    elseif held[key] then
      held[key], begin = held[key] .. place .. id, waiting
    elseif rooms[key] == 0 then
      local list, size = waits[key], #waits[key]
      list[size + 1], list[size + 2], begin = score, place .. id .. waiting_end, waiting
    elseif rooms[key] then
      rooms[key], lasts[key] = rooms[key] - 1, lasts[key] and last_with('', lasts[key], id, score)
    elseif unusual and unusual[key] then
      begin = nil
    end
    if begin then
      entries[written + 1], entries[written + 2], written = id, begin .. key, written + 2
    end
    if begin == passing then
      queue[queued + 1], queue[queued + 2], queued = score, place .. id, queued + 2
    end
  end
  for key, text in pairs(held) do
    counts[filled + 1], counts[filled + 2], filled = key, text, filled + 2
  end
  for key, text in pairs(fulls) do
    counts[filled + 1], counts[filled + 2], filled = key, text .. (lasts[key] or ''), filled + 2
  end
  return counts, entries, queue, waits, many, is_unused, unusual
end

-- Let new instances of one template pass, or wait. Those of a key that needs more stay in `gates.new`.
local pass_new = gates and function(kind, group)
  local g, n, rule, shape = kind_key('g', kind), kind_key('n', kind), shared.rule(kind), group.shape
  local concurrency, own = unpack_text('>I4', group.packed), rule and rule.own > 0 and rule.own
  local counts, entries, queue, waits, many, is_unused, unusual = come_to_keys(n, group.ids, group.keys, shape.priority,
    ready_member(shape.due, ''), group.packed, concurrency, own or concurrency, shape.suspect)
  plan_list('HSET', n, counts)
  plan_list('HSET', g, entries)
  for key, list in pairs(waits) do
    check_zset(waiting_key(kind, key))
    plan_list('ZADD', waiting_key(kind, key), list)
    if many[key] then
      as_table(waiting_key(kind, key), true)
    end
  end
  local suspects = shape.suspect and {} or nil
  for at = 1, suspects and #group.ids or 0 do
    suspects[group.ids[at]] = true
  end
  if queue[1] then
    enter_queue(kind, queue, shape.due, suspects)
  end
  local rest = unusual and {shape = shape, packed = group.packed, ids = {}, keys = {}}
  for at = 1, unusual and #group.ids or 0 do
    if unusual[group.keys[at]] then
      rest.ids[#rest.ids + 1], rest.keys[#rest.keys + 1] = group.ids[at], group.keys[at]
    end
  end
  gates.new[kind] = rest and {rest} or nil
  if not rest then
    local writes = pending.HSET
    writes[g] = of_table(writes[g], gates.unused[kind])
    writes[n] = of_table(writes[n], is_unused and call('HLEN', n) == 0)
  end
end
