#!lua
-- Add children of a running instance, in state Scheduled. A child waits while it is open, or needs a child that is not
-- over. An open child that is known gets further needs. The server refuses the script when the memory of the server is
-- full.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, id and fence of the parent, default retention, number of templates;
--          per template: as in lib/arrival.lua;
--          per child: id, number of its template (with a key for a gate: as in enqueue.lua), spec, "1" if further needs
--          follow in another call, number of its needs, and "c" (completed) or "e" (ended) and the id of each
-- Reply    {0 (new), 1 (an earlier call added it) or 2 (an instance of another parent) per child; set-aside instances};
--          {"lost"}: the incarnation does not hold the claim of the parent; {"layout"}: the namespace has not the layout
--          of children; -1 as in enqueue.lua
local incarnation, parent, retention, shapes = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
if layout ~= FLOWS_LAYOUT then
  return {'layout'}
end
local parent_record = decode(call('MGET', record_key(parent))[1])
if not parent_record or parent_record.state ~= PROCESSING or parent_record.owner ~= incarnation
  or digits(parent_record.fence) ~= ARGV[3] then
  return {'lost'}
end
local node = text_or(call('HGET', node_key(incarnation), 'name') or sub(call('HGET', DEAD, incarnation) or '', 3), incarnation)

-- 1. Read the arguments, and the children that are known.
local templates, given, keys, gone_keys, kinds = {}, {}, {}, {}, {}
for n = 1, shapes do
  kinds[n] = ARGV[6 + (n - 1) * TEMPLATE_SIZE]
end
load_kinds(kinds)
for n = 1, shapes do
  templates[digits(n)] = template(6 + (n - 1) * TEMPLATE_SIZE, node)
end
local at = 6 + shapes * TEMPLATE_SIZE
while ARGV[at] do
  local number, concurrency, gate_key = match(ARGV[at + 1], '^(%d+) ?(%d*) ?(.*)$')
  if gate_key ~= '' and not gates then
    return -1
  end
  local child = {id = ARGV[at], shape = templates[number], concurrency = gate_key ~= '' and concurrency or nil,
    gate_key = gate_key, spec = ARGV[at + 2], more = ARGV[at + 3] == '1', needs = {}}
  for n = 1, tonumber(ARGV[at + 4]) do
    child.needs[n] = ARGV[at + 4 + n]
  end
  at = at + 5 + #child.needs
  given[#given + 1] = child
  keys[#given], gone_keys[#given] = record_key(child.id), gone_key(child.id)
end
local stored = keys[1] and call('MGET', unpack(keys)) or {}
local removed = has_gone and keys[1] and call('MGET', unpack(gone_keys)) or {}
check_zset(children_key(parent))

-- 2. Attach the needs. A child of this call can come again in it, with further needs.
local answers, made, known, order = {}, {}, {}, {}
local function answer_of(n, child)
  local id, one = child.id, made[child.id] or known[child.id]
  if one then
    answers[n] = 1
  elseif not stored[n] and not removed[n] then
    one = {id = id, child = child, open = true, thread = thread_of({})}
    one.thread.parent, one.thread.due = parent, child.shape.due
    made[id], order[#order + 1] = one, one
    answers[n] = 0
  else
    local record = decode(stored[n])
    answers[n] = record and not (record.thread and record.thread.parent == parent) and 2 or 1
    if record and answers[n] == 1 then
      one = {id = id, record = record, open = record.state == SCHEDULED and present(record.thread.flags, OPEN)
        and record.thread.fence == record.fence, thread = record.thread}
      known[id] = one
      order[#order + 1] = one.open and one or nil
    elseif stored[n] and not record then
      set_aside(id, '', 'unreadable record')
    end
  end
  if one and one.open then
    attach(id, one.thread, one.record and one.record.fence or 0, parent, child.needs, made)
    one.open = child.more
  end
end
for n, child in ipairs(given) do
  answer_of(n, child)
end

-- 3. Write the children. Those with the same template and thread have the same record. A child with needs does not bring
-- the concurrency of its key, even if they are over.
local function shape_with(shape, thread, keeps)
  local name = thread.flags .. ' ' .. digits(thread.needs) .. (keeps and ' keeps' or '')
  shape.with = shape.with or {}
  if not shape.with[name] then
    local record, copy = decode(shape.record), {}
    for field, value in pairs(shape) do
      copy[field] = value
    end
    record.thread = thread
    put_thread(record)
    copy.record, copy.keeps = encode(record), keeps
    shape.with[name] = copy
  end
  return shape.with[name]
end

for _, one in ipairs(order) do
  local id, thread, record, child = one.id, one.thread, one.record, one.child
  local waits = one.open or thread.needs > 0
  if child then
    thread.flags = waits and WAITS + JOINS + (one.open and OPEN or 0) or 0
    local keeps = child.more or child.needs[1] ~= nil
    add_instance(shape_with(child.shape, thread, keeps), id, record_key(id), child.spec, waits, child.concurrency, child.gate_key)
    add_pair('ZADD', children_key(parent), 0, id)
  else
    thread.flags = thread.flags - (one.open and 0 or OPEN)
    if waits then
      put_thread(record)
    else
      enter(record, id)
    end
    put_string(record_key(id), encode(record))
  end
end
if next(made) and not present(thread_of(parent_record).flags, HAS_CHILDREN) then
  parent_record.thread.flags = parent_record.thread.flags + HAS_CHILDREN
  put_thread(parent_record)
  put_string(record_key(parent), encode(parent_record))
end
pass_slots_and_wake()
write_all()
settle(MAX_SETTLED, retention, false, incarnation)
return {answers, write_set_aside()}
