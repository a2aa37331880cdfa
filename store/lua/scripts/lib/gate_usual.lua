-- The usual way of instances that leave a gate: admitted ones end, and one that waits passes for each. Each job with a key
-- goes this way and that of gate_new.lua, so these functions make few tables. gate_pass.lua does the rest.

-- Plan a list of arguments. The list becomes the planned one if there is none.
local plan_list = gates and function(command, key, list)
  if list[1] then
    local planned = pending_list(command, key)
    if not planned[1] then
      pending[command][key] = list
    end
    for at = 1, planned[1] and #list or 0 do
      planned[#planned + 1] = list[at]
    end
  end
end

-- Plan that instances that passed enter the queue of their kind. `queue`: arguments of a ZADD. `suspects`: id -> true, or nil.
local enter_queue = gates and function(kind, queue, due, suspects)
  if has_indexes or suspects then
    for at = 2, #queue, 2 do
      local id = sub(queue[at], 17)
      add_to_queue(id, kind, queue[at - 1], due, suspects and suspects[id], true)
    end
    return
  end
  local key = prepare_queue(kind)
  plan_list('ZADD', key, queue)
  newly_due[kind] = (newly_due[kind] or 0) + #queue / 2
  if checked_sizes[key] == 0 then
    as_table(key)
  end
end

-- Return the keys of instances without repetition, and key -> the position of its only instance, or minus the number of its
-- instances. `from`: the first byte of a key in its text.
local grouped = gates and function(texts, from)
  local names, places, size = {}, {}, 0
  for at = 1, #texts do
    local key = from == 1 and texts[at] or sub(texts[at], from)
    local before = places[key]
    if not before then
      size = size + 1
      names[size], places[key] = key, at
    else
      places[key] = before > 0 and -2 or before - 1
    end
  end
  return names, places
end

-- Let the next ones pass after the ends of instances of a kind. Return false, with nothing planned, unless all of them were
-- admitted. Instances of a key that needs more go to `gates.leaving`.
local pass_ended = gates and function(kind, ids)
  local QUEUED, g, n, all_waiting = byte('q'), kind_key('g', kind), kind_key('n', kind), waiting_key(kind, '')
  local rule, texts = shared.rule(kind), call('HMGET', g, unpack(ids))
  for at = 1, #ids do
    local text = texts[at]
    if not text or #text < 22 or byte(text) ~= QUEUED then
      return false
    end
  end
  local own, names, ends = rule and rule.own > 0 and rule.own, grouped(texts, 22)
  local known, counts, entries, queue, gone_keys, unusual = {}, {}, {}, {}, {}, {}
  local filled, written, queued, place, beginnings, scores = 0, 0, 0, ready_member(now, ''), {}, {}
  local suspects = nil

  local function let_in(id, score, suspect, packed, key)
    if suspect then
      suspects = suspects or {}
      suspects[id] = true
    end
    queue[queued + 1], queue[queued + 2], queued = score, place .. id, queued + 2
    entries[written + 1], entries[written + 2] = id, 'q' .. place .. packed .. key
    written = written + 2
  end

  -- The first one that waits passes. Return its id and its score.
  local function pass_first(key)
    local queue_key = all_waiting .. key
    local first = call('ZRANGE', queue_key, 0, 0, 'WITHSCORES')
    local member, score = first[1], first[2]
    if member then
      local id = sub(member, 17, 52)
      pending_list('ZREM', queue_key)[1] = member
      let_in(id, score, byte(member, 53) == 87, sub(member, 54), key)
      return id, score
    end
  end

  -- The first one of those that the entry of a key has passes. Return the new entry, or nil for a damaged one.
  local function pass_held(text, key)
    local waiting = byte(text, 12)
    local at = #text - HELD_SIZE * waiting + 1
    local score = sub(text, 13 + ID_SIZE, at - 2)
    if scores[score] == nil then
      scores[score] = find(score, '^-?%d+$') and score .. ',' or false
    end
    if waiting > 0 and scores[score] then
      local id = sub(text, at + 16, at + 51)
      let_in(id, score, false, ONE, key)
      beginnings[waiting] = beginnings[waiting] or held_counts(waiting - 1)
      return beginnings[waiting] .. id .. scores[score] .. sub(text, at + HELD_SIZE)
    end
  end

  for at, text in ipairs(call('HMGET', n, unpack(names))) do
    local key, after = names[at], nil
    local end_at, first = ends[key], text and byte(text)
    if not text or #text == 12 then
      after = counts_after(known, text or NO_COUNTS, end_at > 0 and -1 or end_at)
    elseif first == 1 then
      after = end_at > 0 and (own or 1) == 1 and pass_held(text, key)
    elseif end_at > 0 and first == 0 and byte(text, -1) == 44 then
      local admitted, concurrency, waiting = unpack_text(GATE_COUNTS, text)
      local last = admitted > 1 and last_without(sub(text, 13), ids[end_at]) or ''
      if waiting == 0 then
        after = admitted > 1 and pack(GATE_COUNTS, admitted - 1, concurrency, 0) .. last or ''
      elseif admitted == (own or max(1, concurrency)) then
        local id, score = pass_first(key)
        after = id and last_with(pack(GATE_COUNTS, admitted, concurrency, waiting - 1), last, id, score)
      end
    end
    if not after then
      unusual[key] = true
    elseif after == '' then
      gone_keys[#gone_keys + 1] = key
    else
      counts[filled + 1], counts[filled + 2], filled = key, after, filled + 2
    end
  end

  plan_list('HDEL', n, gone_keys)
  plan_list('HSET', n, counts)
  plan_list('HSET', g, entries)
  if queued > 0 then
    enter_queue(kind, queue, now, suspects)
  end
  for at = 1, next(unusual) and #ids or 0 do
    if unusual[sub(texts[at], 22)] then
      leave_gate(ids[at], kind, true)
    end
  end
  plan_list('HDEL', g, ids)
  return true
end
