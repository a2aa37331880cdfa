#!lua
-- Add instances of another store, with their steps, waits and ends. An instance that is open waits; when it is known, it
-- gets the steps that it does not have, and can be closed. The server refuses the script when the memory of the server
-- is full.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     node name; per instance: a template as in lib/arrival.lua, id, key for a gate as in enqueue.lua or "", spec,
--          parent or "", what it is, its due time before a wait with a time, the awaited signals or "", result and
--          error, each "" or "=" and the text, number of steps, and the name and the value of each
--          What it is: "o" open, "q" in its queue, "w" waits, "t" waits until the due time of its template; or the
--          number of a final state
-- Reply    {per instance 0 (the instance is new), 1 (an earlier call added it, or its parent is not open), or the id of
--          the instance that has its key, or of its parent, which is unknown; set-aside instances}; {"layout"}: the
--          namespace has not the layout of children; -1 as in enqueue.lua
local PARTS = 9
if layout ~= FLOWS_LAYOUT then
  return {'layout'}
end
local node, given, keys, gone_keys, kinds = ARGV[1], {}, {}, {}, {}
local position = 2
while ARGV[position] do
  local at = position + TEMPLATE_SIZE
  local concurrency, gate_key = match(ARGV[at + 1], '^(%d+) (.+)$')
  if gate_key and not gates then
    return -1
  end
  local one = {at = position, id = ARGV[at], concurrency = concurrency, gate_key = gate_key, spec = ARGV[at + 2],
    parent = ARGV[at + 3], what = ARGV[at + 4], before = tonumber(ARGV[at + 5]), awaits = ARGV[at + 6],
    result = ARGV[at + 7], error = ARGV[at + 8], names = {}, values = {}}
  position = at + PARTS + 1
  for n = 1, tonumber(ARGV[at + PARTS]) do
    one.names[n], one.values[n] = ARGV[position], ARGV[position + 1]
    position = position + 2
  end
  given[#given + 1] = one
  keys[#given], gone_keys[#given], kinds[#given] = record_key(one.id), gone_key(one.id), ARGV[one.at]
end
load_kinds(kinds)
local stored = keys[1] and call('MGET', unpack(keys)) or {}
local removed = has_gone and keys[1] and call('MGET', unpack(gone_keys)) or {}

local function is_open(record)
  local thread = record.thread
  return record.state == SCHEDULED and thread and thread.fence == record.fence and present(thread.flags, OPEN)
end

local function keep(thread, id, name, value)
  count_step(thread, name, value)
  add_pair('HSET', steps_key(id), name, value)
end

-- The parents that were read: a record, or false for one that is unknown.
local parents = {}

-- Return whether a parent takes children; nil if it is unknown. Its record says from then on that it has some.
local function takes_children(id)
  if parents[id] == nil then
    local raw = call('MGET', record_key(id))[1]
    local record = decode(raw)
    parents[id] = record or false
    if record and is_open(record) then
      check_zset(children_key(id))
      if not present(record.thread.flags, HAS_CHILDREN) then
        record.thread.flags = record.thread.flags + HAS_CHILDREN
        put_thread(record)
        put_string(record_key(id), encode(record))
      end
    elseif raw and not record then
      set_aside(id, '', 'unreadable record')
    end
  end
  if parents[id] then
    return is_open(parents[id]) or false
  end
  return nil
end

-- Add the steps that an open instance does not have, and close it.
local function complete(one, record)
  local thread, id = record.thread, one.id
  for n, value in ipairs(one.names[1] and call('HMGET', steps_key(id), unpack(one.names)) or {}) do
    if not value then
      keep(thread, id, one.names[n], one.values[n])
    end
  end
  thread.flags = thread.flags - (one.what == 'o' and 0 or OPEN)
  if one.what == 'o' or thread.needs > 0 then
    put_thread(record)
  else
    enter(record, id)
  end
  put_string(record_key(id), encode(record))
  hint_change(id)
end

local function add_new(one, key, shape)
  local id, what, state = one.id, one.what, tonumber(one.what)
  local record = decode(shape.record)
  local thread, is_over = thread_of(record), false
  thread.parent, thread.due = one.parent, one.before
  for n, name in ipairs(one.names) do
    keep(thread, id, name, one.values[n])
    is_over = is_over or sub(name, 1, 1) == SIGNAL_MARK and awaits_signal(one.awaits, sub(name, 2))
  end
  if state then
    if state ~= CANCELLED then
      add_transition(record, PROCESSING, node, '')
    end
    add_transition(record, state, node, '')
    record.result = one.result ~= '' and sub(one.result, 2) or nil
    record.error = one.error ~= '' and sub(one.error, 2) or nil
    shape.index = index_key(state, shape.kind)
    check_zset(shape.index)
  elseif what == 'o' then
    thread.flags = WAITS + JOINS + OPEN
  elseif is_over then
    shape.due, record.due = one.before, one.before
  elseif what ~= 'q' then
    thread.flags, thread.awaits = WAITS + (what == 't' and TIMED or 0), one.awaits
  end
  put_thread(record)
  shape.record = encode(record)
  local is_outside = state or what == 'o' or what == 'w' and not is_over
  add_instance(shape, id, key, one.spec, is_outside, not state and one.concurrency or nil, one.gate_key)
  if one.parent ~= '' then
    add_pair('ZADD', children_key(one.parent), 0, id)
  end
end

local function answer_of(n, one)
  local record = decode(stored[n])
  if stored[n] and not record then
    set_aside(one.id, '', 'unreadable record')
  elseif record and is_open(record) and not tonumber(one.what) then
    complete(one, record)
  end
  if stored[n] or removed[n] then
    return 1
  end
  local shape = template(one.at, node)
  local holder = key_holder(shape)
  if holder then
    return holder
  end
  local takes = one.parent == '' or takes_children(one.parent)
  if takes then
    add_new(one, keys[n], shape)
    return 0
  end
  return takes == nil and one.parent or 1
end

local answers = {}
for n, one in ipairs(given) do
  answers[n] = answer_of(n, one)
end
pass_slots_and_wake()
write_all()
return {answers, write_set_aside()}
