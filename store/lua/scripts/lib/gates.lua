-- Key limits: a gate in front of the queue of a kind. Of each key, so many instances are past the gate (admitted): in the
-- queue, or claimed. The others wait in no queue. The record of an instance does not show the key, so each instance with
-- a key has an entry in `g:` from its enqueue to the end of its body:
--   a letter, a time in 16 digits, the concurrency that came with the instance in 4 bytes, the key
--   q: admitted, and its place in the queue; w (W for a suspect): waiting, and its due time; -: neither, as when delayed
-- An entry of `n:` has the number of admitted instances, the concurrency and the number of waiting ones in 4 bytes each.
-- The last admitted ones follow, each with its priority and a comma, but not while many more can be admitted.
-- A key with concurrency 1 can have its first few waiting instances in its entry of `n:` instead of in `w:`, if they came
-- one behind the other with the priority of the admitted one, and none is a suspect. The first byte of the entry is then 1,
-- and their due times and ids are at its end. An unusual change moves them to `w:`.

-- This file keeps which instances come to a gate, and which leave it. gate_pass.lua then lets the next ones pass. Nil
-- without the key `limited`, as `shared` in limits.lua.
-- `leaving`, `coming` and `new`: kind -> the instances that leave ("over", or "back" if they come again), that come, and that
-- are new and come now: in order, groups of those with one template (`shape`) and concurrency (`packed` as in `g:`).
-- `ends`: kind -> the claimed instances that end in the usual way; false if no instance of the kind has a key. `is_busy`:
-- whether any instance comes or leaves. `unused`: kinds without an entry yet. `with_keys`: kind -> whether it has entries.
local gates = limited and {leaving = {}, ends = {}, coming = {}, new = {}, unused = {}, with_keys = {}, is_busy = false}

local gate_list = gates and function(lists, kind)
  local list = lists[kind]
  if not list then
    list = {}
    lists[kind], gates.is_busy = list, true
  end
  return list
end

-- Return whether instances of a kind have keys.
local has_keys = gates and function(kind)
  if gates.with_keys[kind] == nil then
    gates.with_keys[kind] = call('HLEN', kind_key('g', kind)) > 0
  end
  return gates.with_keys[kind]
end

-- Keep that an instance comes to its gate. Return false if no instance of its kind has a key.
local come_to_gate = gates and function(id, kind, score, due, suspect)
  if not has_keys(kind) then
    return false
  end
  local list = gate_list(gates.coming, kind)
  list[#list + 1] = {id = id, score = score, due = due, suspect = suspect}
  return true
end

-- LIMITS has a field for each kind with keys: that of its rule, or "g" and the kind. If LIMITS is lost, it stays so until a
-- claim finds that, and its node publishes all limits again.
local open_gate = gates and function(kind)
  if not has_keys(kind) then
    gates.unused[kind], gates.with_keys[kind] = true, true
    if not shared.rule(kind) and call('EXISTS', PREFIX .. 'limits') == 1 then
      add_pair('HSET', PREFIX .. 'limits', 'g' .. kind, '')
    end
  end
end

-- Keep new instances of a template that come to their gates now. This is the first call for the kind.
local bring_all_to_gate = gates and function(shape, concurrency, ids, keys)
  open_gate(shape.kind)
  gates.new[shape.kind] = {{shape = shape, packed = pack('>I4', concurrency), ids = ids, keys = keys}}
  gates.is_busy = true
end

-- Keep the key of a new instance of a template. Return whether the instance comes to its gate now.
local bring_to_gate = gates and function(id, shape, concurrency, key, waits)
  local kind, packed = shape.kind, pack('>I4', concurrency)
  open_gate(kind)
  if waits or shape.due > now then
    add_pair('HSET', kind_key('g', kind), id, '-0000000000000000' .. packed .. key)
    return false
  end
  local groups = gate_list(gates.new, kind)
  local group = groups[#groups]
  if not group or group.shape ~= shape or group.packed ~= packed then
    group = {shape = shape, packed = packed, ids = {}, keys = {}}
    groups[#groups + 1] = group
  end
  local size = #group.ids + 1
  group.ids[size], group.keys[size] = id, key
  return true
end

-- Keep that an instance leaves its key. `is_over`: the instance does not come back.
local leave_gate = gates and function(id, kind, is_over)
  if gates.leaving[kind] or has_keys(kind) then
    gate_list(gates.leaving, kind)[id] = is_over and 'over' or 'back'
  end
end

-- Keep that a claimed instance ends in the usual way, the first one of its kind.
local end_past_gate = gates and function(id, kind)
  gates.ends[kind] = has_keys(kind) and {id}
  gates.is_busy = gates.is_busy or has_keys(kind)
end

-- Keep that an instance of an unknown kind leaves its key.
local leave_any_gate = gates and function(id)
  local fields = call('HGETALL', PREFIX .. 'limits')
  for n = 1, #fields, 2 do
    local what, kind = sub(fields[n], 1, 1), sub(fields[n], 2)
    if (what == 'k' or what == 'g') and call('HEXISTS', kind_key('g', kind), id) == 1 then
      leave_gate(id, kind, true)
    end
  end
end

local is_whole_entry = gates and function(entry_text)
  return entry_text and #entry_text > 21 and find(entry_text, '^[qwW%-]')
end

-- Return the letter, the time, the concurrency in 4 bytes, and the key of an entry of `g:`; nil for a damaged one.
local parsed_entry = gates and function(entry_text)
  if is_whole_entry(entry_text) then
    return sub(entry_text, 1, 1), sub(entry_text, 2, 17), sub(entry_text, 18, 21), sub(entry_text, 22)
  end
end

-- Return the place of an instance in its queue; `due` if the instance did not wait.
local place_past_gate = gates and function(id, kind, due)
  local letter, place = parsed_entry(has_keys(kind) and call('HGET', kind_key('g', kind), id))
  return letter == 'q' and tonumber(place) or due
end

-- sorted set like a queue, the instances of a kind that wait for a key: priority -> due time in 16 digits, id, letter and
-- concurrency as in `g:`
local waiting_key = gates and function(kind, key)
  return PREFIX .. 'w:' .. #kind .. ':' .. kind .. key
end

-- Whether an instance precedes another one of its kind: by priority, then by its member of a queue.
local function passes_first(score, member, other_score, other_member)
  local difference = score - other_score
  return difference < 0 or difference == 0 and member < other_member
end
