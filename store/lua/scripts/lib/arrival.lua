-- New instances: their templates, their unique keys, and the writes that add them.
local TEMPLATE_SIZE = 8

-- Return the record and the indexes that equal instances share. The arguments are in ARGV, from `at` on:
-- kind, priority, due ("" now, "=us" at, "+us" after now), "" or "k" and the unique key, tags, retention (-1 default),
-- max_crashes, "" or attempts, crashes and losses in another store. `slot` is the schedule whose slot the instances take or wait for, or nil.
local function template(at, node, slot)
  local kind, priority, due_text, key, tags = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local due = now
  if due_text ~= '' then
    due = min(LATEST, tonumber(sub(due_text, 2)) + (sub(due_text, 1, 1) == '+' and now or 0))
  end
  key = key ~= '' and sub(key, 2) or nil
  register_kind(kind)
  check_zsets(ready_key(kind), index_key(SCHEDULED, kind))
  local tag_keys = {}
  if tags ~= '' then
    each_text(tags, function(tag)
      tag_keys[#tag_keys + 1] = tag_key(tag)
      check_zset(tag_key(tag))
    end)
  end
  local attempts, crashes, losses = string.match(ARGV[at + 7], '(%d+) (%d+) (%d+)')
  attempts, crashes, losses = tonumber(attempts or 0), tonumber(crashes or 0), tonumber(losses or 0)
  return {
    kind = kind, priority = priority, due = due, key = key, tag_keys = tag_keys, index = index_key(SCHEDULED, kind),
    record = new_record(kind, priority, due, key, tags, ARGV[at + 5], ARGV[at + 6], node, slot, attempts, crashes, losses),
    suspect = is_suspect({crashes = crashes, losses = losses}),
  }
end

-- The id of the instance that has a unique key, by kind and key; false if the key is free. An instance has the key
-- until the instance is final and its body has ended.
local key_holders = {}

local function key_holder(shape)
  if not shape.key then
    return false
  end
  local kind, key = shape.kind, shape.key
  local name = #kind .. ':' .. kind .. key
  if key_holders[name] == nil then
    local id = call('HGET', unique_key(kind), key)
    local raw = id and call('MGET', record_key(id))[1]
    key_holders[name] = raw and (not is_final(byte(raw, 2) or CANCELLED) or byte(raw, 3) % 2 == RELEASING) and id or false
  end
  return key_holders[name]
end

-- Plan the writes of a new instance. If `waits` is true, the instance waits for the slot of its schedule, so it enters
-- no queue yet. `concurrency` and `gate_key`: of an instance that comes to a gate, see gates.lua; else nil.
local function add_instance(shape, id, key, spec, waits, concurrency, gate_key)
  local kind = shape.kind
  if shape.key then
    key_holders[#kind .. ':' .. kind .. shape.key] = id
    add_pair('HSET', unique_key(kind), shape.key, id)
  end
  put_string(key, shape.record)
  put_string(spec_key(id), spec)
  local comes_to_gate = gates and concurrency and bring_to_gate(id, shape, concurrency, gate_key, waits)
  if not waits and not comes_to_gate then
    add_to_queue(id, kind, shape.priority, shape.due, shape.suspect)
  end
  add_pair('ZADD', shape.index, '0', id)
  for n = 1, #shape.tag_keys do
    add_pair('ZADD', shape.tag_keys[n], '0', id)
  end
  if changes_wanted then
    hint_change(id)
  end
end

-- Plan the writes of a batch with one template in one loop, which costs less than add_instance for each. Return false, with
-- nothing planned, unless all instances are new, due now, and without unique key, tags and index of heads. ARGV has the
-- instances from `at` on.
local function add_alike(shape, keys, stored, removed, at)
  if shape.key or shape.tag_keys[1] or shape.due > now or shape.suspect or has_indexes or changes_wanted then
    return false
  end
  local record, priority, due, seen = shape.record, shape.priority, ready_member(shape.due, ''), {}
  local queue, index, strings, queued = {}, {}, {}, 0
  local gate_ids, gate_keys, coming, begin, concurrency = {}, {}, 0, nil, nil
  for n = 1, #keys do
    local id, text, gate_key = ARGV[at], ARGV[at + 1], nil
    if text ~= '1' then
      if not begin then
        begin, concurrency = match(text, '^(1 (%d+) )')
      end
      gate_key = sub(text, 1, #begin) == begin and sub(text, #begin + 1)
    end
    if stored[n] or removed[n] or seen[id] or gate_key == false or not gates and gate_key then
      return false
    end
    seen[id] = true
    local last = 2 * n
    if gate_key then
      gate_ids[coming + 1], gate_keys[coming + 1], coming = id, gate_key, coming + 1
    else
      queue[queued + 1], queue[queued + 2], queued = priority, due .. id, queued + 2
    end
    index[last - 1], index[last] = '0', id
    last = 2 * last
    strings[last - 3], strings[last - 2], strings[last - 1], strings[last] = keys[n], record, spec_key(id), ARGV[at + 2]
    at = at + 3
  end
  records_to_set, pending.ZADD = strings, {[shape.index] = index}
  if queued > 0 then
    pending.ZADD[prepare_queue(shape.kind)], newly_due[shape.kind] = queue, queued / 2
  end
  if coming > 0 then
    bring_all_to_gate(shape, concurrency, gate_ids, gate_keys)
  end
  return true
end

-- Add one instance that is due now and has no unique key and no tags. There is one instance, so the writes need no plan:
-- they follow the last check at once. Return false if the instance was added before. The arguments are those of
-- enqueue_waking.lua.
local function add_plain(kind, priority, first, numbers, between, last, id, spec)
  local key, queue, index = record_key(id), ready_key(kind), index_key(SCHEDULED, kind)
  if call('MGET', key)[1] or has_gone and call('EXISTS', gone_key(id)) == 1 then
    return false
  end
  local head_indexes, head = {}, nil
  if has_indexes then
    head_indexes, head = head_indexes_of(kind, false), call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  end
  -- As check_zsets in queue.lua does: a key of a wrong type must cause an error before the first write.
  call('ZINTERCARD', 3, PREFIX, queue, index)
  if not known_kinds[kind] then
    call('HSETNX', KINDS, kind, '')
  end
  local time = pack('>d', now)
  local record = first .. time .. NO_FENCE .. time .. numbers .. time .. between .. time .. last
  call('MSET', key, record, spec_key(id), spec)
  local member = ready_member(now, id)
  call('ZADD', queue, priority, member)
  call('ZADD', index, 0, id)
  if head_indexes[1] and precedes_head(member, priority, head) then
    for n = 1, #head_indexes do
      if head[1] then
        call('ZREM', head_indexes[n], head[1] .. kind)
      end
      call('ZADD', head_indexes[n], priority, member .. kind)
    end
  end
  return true
end
