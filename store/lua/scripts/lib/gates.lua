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
local gates = limited and (function()
  -- kind -> the instances that leave ("over", or "back" if they come again), that come, and that are new and come now: in
  -- order, groups of those with one template (`shape`) and concurrency (`packed` as in `g:`). `ended`: kind -> the claimed
  -- instances that end in the usual way; false if no instance of the kind has a key. `unused`: kinds without an entry yet.
  local self, gated = {leaving = {}, ended = {}, coming = {}, new = {}, unused = {}, has_ended = false}, {}

  local function of_kind(lists, kind)
    local list = lists[kind]
    if not list then
      list = {}
      lists[kind] = list
    end
    return list
  end

  -- Return whether instances of a kind have keys.
  function self.has(kind)
    if gated[kind] == nil then
      gated[kind] = call('HLEN', kind_key('g', kind)) > 0
    end
    return gated[kind]
  end

  -- Keep that an instance comes to its gate. Return false if no instance of its kind has a key.
  function self.comes(id, kind, score, due, suspect)
    if not self.has(kind) then
      return false
    end
    local list = of_kind(self.coming, kind)
    list[#list + 1] = {id = id, score = score, due = due, suspect = suspect}
    return true
  end

  local packed, NO_TIME = {}, '0000000000000000'

  -- LIMITS has a field for each kind with keys: that of its rule, or "g" and the kind.
  local function open_gate(kind)
    if not gated[kind] and not self.has(kind) then
      self.unused[kind] = true
      if not shared.rule(kind) then
        add_pair('HSET', PREFIX .. 'limits', 'g' .. kind, '')
      end
    end
    gated[kind] = true
  end

  -- Keep new instances of a template that come to their gates now. This is the first call for the kind.
  function self.bring_all(shape, concurrency, ids, keys)
    open_gate(shape.kind)
    self.new[shape.kind] = {{shape = shape, packed = pack('>I4', concurrency), ids = ids, keys = keys}}
  end

  -- Keep the key of a new instance of a template. Return whether the instance comes to its gate now.
  function self.bring(id, shape, concurrency, key, waits)
    local kind = shape.kind
    open_gate(kind)
    packed[concurrency] = packed[concurrency] or pack('>I4', concurrency)
    local comes_now = not waits and shape.due <= now
    local groups = of_kind(self.new, kind)
    local group = groups[#groups]
    if not comes_now then
      add_pair('HSET', kind_key('g', kind), id, '-' .. NO_TIME .. packed[concurrency] .. key)
      return false
    elseif not group or group.shape ~= shape or group.packed ~= packed[concurrency] then
      group = {shape = shape, packed = packed[concurrency], ids = {}, keys = {}}
      groups[#groups + 1] = group
    end
    local size = #group.ids + 1
    group.ids[size], group.keys[size] = id, key
    return true
  end

  -- Keep that an instance leaves its key. `is_over`: the instance does not come back.
  function self.leaves(id, kind, is_over)
    local list = self.leaving[kind]
    if not list and self.has(kind) then
      list = of_kind(self.leaving, kind)
    end
    if list then
      list[id] = is_over and 'over' or 'back'
    end
  end

  -- Keep that a claimed instance ends in the usual way, the first one of its kind.
  function self.ends(id, kind)
    self.ended[kind] = self.has(kind) and {id}
    self.has_ended = self.has_ended or self.has(kind)
  end

  -- Keep that an instance of an unknown kind leaves its key.
  function self.leaves_any(id)
    local fields = call('HGETALL', PREFIX .. 'limits')
    for n = 1, #fields, 2 do
      local what, kind = sub(fields[n], 1, 1), sub(fields[n], 2)
      if (what == 'k' or what == 'g') and call('HEXISTS', kind_key('g', kind), id) == 1 then
        self.leaves(id, kind, true)
      end
    end
  end

  local LETTERS = {[byte('q')] = true, [byte('w')] = true, [byte('W')] = true, [byte('-')] = true}

  function self.is_whole(entry_text)
    return entry_text and #entry_text > 21 and LETTERS[byte(entry_text)]
  end

  -- Return the letter, the time, the concurrency in 4 bytes, and the key of an entry of `g:`; nil for a damaged one.
  function self.parsed(entry_text)
    if self.is_whole(entry_text) then
      return sub(entry_text, 1, 1), sub(entry_text, 2, 17), sub(entry_text, 18, 21), sub(entry_text, 22)
    end
  end

  -- Return the place of an instance in its queue; `due` if the instance did not wait.
  function self.place(id, kind, due)
    local letter, place = self.parsed(self.has(kind) and call('HGET', kind_key('g', kind), id))
    return letter == 'q' and tonumber(place) or due
  end

  return self
end)()

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
