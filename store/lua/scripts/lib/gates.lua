-- Key limits: a gate in front of the queue of a kind. Of each key, so many instances are past the gate (admitted): in the
-- queue, or claimed. The others wait in no queue. The record of an instance does not show the key, so each instance with
-- a key has an entry in `g:` from its enqueue to the end of its body:
--   a letter, a time in 16 digits, the concurrency that came with the instance in 4 bytes, the key
--   q: admitted, and its place in the queue; w (W for a suspect): waiting, and its due time; -: neither, as when delayed
-- An entry of `n:` has the number of admitted instances, the concurrency and the number of waiting ones in 4 bytes each.
-- The last admitted ones follow, each with its priority and a comma, but not while many more can be admitted.
--
-- A key with room for more than NEAR does not keep its last admitted instances. MAX_LAST: bytes of them that it keeps.
local NEAR, MAX_LAST = 4, 160

-- This file keeps which instances come to a gate, and which leave it. gate_pass.lua then lets the next ones pass. Nil
-- without the key `limited`, as `shared` in limits.lua.
local gates = limited and (function()
  -- kind -> the instances that leave ("over", or "back" if they come again), that come, and that are new: of each new one
  -- that comes now, its id, its template, its concurrency as in `g:`, and its key. `unused`: kinds without an entry yet.
  local self, gated = {leaving = {}, coming = {}, new = {}, unused = {}}, {}

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

  -- Keep new instances of a kind that come to their gates now: a list as in `new`, but with concurrencies as texts. This is
  -- the first call for the kind.
  function self.bring_all(kind, instances)
    open_gate(kind)
    for at = 3, #instances, 4 do
      local concurrency = instances[at]
      packed[concurrency] = packed[concurrency] or pack('>I4', concurrency)
      instances[at] = packed[concurrency]
    end
    self.new[kind] = instances
  end

  -- Keep the key of a new instance of a template. Return whether the instance comes to its gate now.
  function self.bring(id, shape, concurrency, key, waits)
    local kind = shape.kind
    open_gate(kind)
    packed[concurrency] = packed[concurrency] or pack('>I4', concurrency)
    local comes_now = not waits and shape.due <= now
    local list = of_kind(self.new, kind)
    if comes_now then
      local size = #list
      list[size + 1], list[size + 2], list[size + 3], list[size + 4] = id, shape, packed[concurrency], key
    else
      add_pair('HSET', kind_key('g', kind), id, '-' .. NO_TIME .. packed[concurrency] .. key)
    end
    return comes_now
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

-- Return the arguments of an HSET, or nil if there are none. If the hash does not exist yet (`is_unused`), add a long value,
-- of which the last argument takes the place, so that the server makes a table, until the hash is empty or the server
-- restarts. Otherwise a hash of up to 512 short values would be a list, which the server searches for each field.
local of_table = gates and function(arguments, is_unused)
  local size = #arguments
  if is_unused and size > 0 then
    arguments[size + 1], arguments[size + 2] = arguments[1], arguments[2]
    arguments[2] = string.rep(' ', 65)
  end
  return size > 0 and arguments or nil
end

-- Return the state of a key from its entry in `n:`: besides what the entry has, how many admitted instances leave
-- (`freed`), how many new ones come, with which template (`shape`), or with several (`is_mixed`). Later also the instances
-- that come to a gate that does not let all of them pass (`came`), and the members of waiting ones that leave (`left`).
local GATE_COUNTS = '>I4I4I4'
local key_state = gates and function(text, all_waiting, key)
  local state = {admitted = 0, concurrency = 0, waiting = 0, last = '', is_stored = text and true, freed = 0, new = 0,
    shape = nil, is_mixed = nil, came = nil, left = nil}
  if text and #text >= 12 and byte(text) == 0 and (#text == 12 or byte(text, -1) == 44) then
    state.admitted, state.concurrency, state.waiting = unpack_text(GATE_COUNTS, text)
    state.last = sub(text, 13)
  elseif text then
    -- After damage, the key begins anew, with the instances that wait.
    state.waiting = call('ZCARD', all_waiting .. key)
  end
  return state
end

local leave_admitted = gates and function(state, id)
  state.admitted, state.freed = max(0, state.admitted - 1), state.freed + 1
  local from = state.admitted > 0 and find(state.last, id, 1, true)
  if from then
    state.last = sub(state.last, 1, from - 1) .. sub(state.last, find(state.last, ',', from, true) + 1)
  elseif state.admitted == 0 then
    state.last = ''
  end
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
