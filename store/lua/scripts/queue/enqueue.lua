#!lua
-- Add instances in state Scheduled, with a history entry for Created. The server refuses the script when the memory of
-- the server is full.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     node name, number of templates;
--          per template: as in lib/arrival.lua;
--          per instance: id, number of its template, spec. With a key for a gate, a space, the concurrency of the key,
--          a space and the key follow the number
-- Reply    per instance 0 (the instance is new), its own id (an earlier call added it), or the id of the instance that
--          has its key. If all are new, a number that says what the caller can try next time: 1 enqueue_one.lua,
--          since no node is idle, no node watches, and no set has an index; 3 enqueue_indexed.lua, since no node is
--          idle and no node watches; 2 enqueue_waking.lua, since no node watches; 0 none of them. -1: nothing was
--          done, because the namespace has no limits yet and an instance has a key; use open_gates.lua first
local node, shapes = ARGV[1], tonumber(ARGV[2])
local were_idle = idle_left

local cursor = 3 + shapes * TEMPLATE_SIZE
local count = (#ARGV - cursor + 1) / 3
local keys, kinds, templates = {}, {}, {}
for n = 1, count do
  keys[n] = record_key(ARGV[cursor + 3 * n - 3])
end
local stored, removed = call('MGET', unpack(keys)), {}
if has_gone then
  local gone_keys = {}
  for n = 1, count do
    gone_keys[n] = gone_key(ARGV[cursor + 3 * n - 3])
  end
  removed = call('MGET', unpack(gone_keys))
end
for n = 1, shapes do
  kinds[n] = ARGV[3 + (n - 1) * TEMPLATE_SIZE]
end
load_kinds(kinds)
for n = 1, shapes do
  templates[digits(n)] = template(3 + (n - 1) * TEMPLATE_SIZE, node)
end

local answers, refused, seen, any_new = {}, false, {}, false
if shapes == 1 and add_alike(templates['1'], keys, stored, removed, cursor) then
  any_new, count = true, 0
end
for n = 1, count do
  local id, one, concurrency, gate_key = ARGV[cursor], templates[ARGV[cursor + 1]], nil, nil
  if not one then
    if not gates then
      return -1
    end
    one, concurrency, gate_key = match(ARGV[cursor + 1], '^(%d+) (%d+) (.+)$')
    one = templates[one]
  end
  local answer = seen[id] or 0
  if stored[n] or removed[n] or answer == 0 and seen[id] then
    answer, refused = id, true
  elseif not seen[id] then
    local holding = one.key and key_holder(one)
    if holding then
      answer, refused = holding, true
    else
      add_instance(one, id, keys[n], ARGV[cursor + 2], false, concurrency, gate_key)
      any_new = true
    end
  end
  seen[id] = answer
  answers[n] = answer
  cursor = cursor + 3
end

if any_new then
  if gates and gates.is_busy then
    pass_gates()
  end
  wake_for_new_work()
  write_all()
end
return refused and answers or changes_wanted and 0 or were_idle > 0 and 2 or has_indexes and 3 or 1
