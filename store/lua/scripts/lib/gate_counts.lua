-- The counts of the keys of gates: entries of `n:`, see gates.lua.
--
-- A key with room for more than NEAR does not keep its last admitted instances. MAX_LAST: bytes of them that it keeps.
local NEAR, MAX_LAST = 4, 160
-- The beginning of an entry that can get waiting instances, and of one that has some; the next byte is their number.
-- MAX_HELD: how many an entry has at most. HELD_SIZE: bytes of one. ONE: concurrency 1.
local HOLDS_NONE, HOLDS_SOME = '\0\0\0\1\0\0\0\1\0\0\0', '\1\0\0\1\0\0\0\1\0\0\0'
local MAX_HELD, HELD_SIZE, ONE = 8, 52, '\0\0\0\1'
-- From so many waiting instances on, the sorted set of a key is a table: the server would search a list of up to 128 of them
-- for each one that comes.
local MANY_WAITING = 16

-- Let the server make a table of a sorted set: a long member, which leaves it at once, makes the difference.
local function make_table(set)
  local long = string.rep(' ', 65)
  call('ZADD', set, 0, long)
  call('ZREM', set, long)
end

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

-- Whether an entry can get so many more waiting instances. `same`: their priority as text and a comma. `place`: their due
-- time in 16 digits.
local can_hold = gates and function(text, same, count, place)
  local beginning, waiting = sub(text, 1, 11), byte(text, 12)
  return (beginning == HOLDS_SOME or beginning == HOLDS_NONE and waiting == 0) and waiting + count <= MAX_HELD
    and sub(text, 13 + ID_SIZE, 12 + ID_SIZE + #same) == same and #text == 12 + ID_SIZE + #same + HELD_SIZE * waiting
    and (waiting == 0 or sub(text, -HELD_SIZE, -ID_SIZE - 1) < place)
end

-- Return the beginning of an entry with so many waiting instances.
local held_counts = gates and function(waiting)
  return (waiting > 0 and HOLDS_SOME or HOLDS_NONE) .. string.char(waiting)
end

-- Return the priority of all waiting instances that an entry has, the position of the first of them, and their number; nil
-- if the entry has none or is damaged.
local held_in = gates and function(text)
  local waiting = text and byte(text) == 1 and byte(text, 12) or 0
  local at = waiting > 0 and #text - HELD_SIZE * waiting + 1
  local score = at and sub(text, 13 + ID_SIZE, at - 2)
  if score and find(score, '^-?%d+$') then
    return score, at, waiting
  end
end

-- Return the waiting instances that an entry has as arguments of a ZADD, and the entry without them; nil if it has none.
local without_held = gates and function(text)
  local score, first, waiting = held_in(text)
  if score then
    local members = {}
    for at = first, #text, HELD_SIZE do
      members[#members + 1] = score
      members[#members + 1] = sub(text, at, at + HELD_SIZE - 1) .. 'w' .. ONE
    end
    return members, HOLDS_NONE .. string.char(waiting) .. sub(text, 13, first - 1)
  end
end

-- Return the state of a key from its entry in `n:`: besides what the entry has, how many admitted instances leave (`freed`).
-- Later also the instances that come to a gate (`came`), and the members of waiting ones that leave (`left`).
local GATE_COUNTS, NO_COUNTS = '>I4I4I4', '\0\0\0\0\0\0\0\0\0\0\0\0'
local key_state = gates and function(text, n, all_waiting, key)
  local state = {admitted = 0, concurrency = 0, waiting = 0, last = '', freed = 0, came = nil, left = nil}
  local held, rest = without_held(text)
  if held then
    -- These two writes change only the place of the waiting instances, so they may come before the checks.
    call('ZADD', all_waiting .. key, unpack(held))
    call('HSET', n, key, rest)
    text = rest
  end
  if text and #text >= 12 and byte(text) == 0 and (#text == 12 or byte(text, -1) == 44) then
    state.admitted, state.concurrency, state.waiting = unpack_text(GATE_COUNTS, text)
    state.last = sub(text, 13)
  elseif text then
    -- After damage, the key begins anew, with the instances that wait.
    state.waiting = call('ZCARD', all_waiting .. key)
  end
  return state
end

-- Return the last admitted instances of a key without one of them.
local last_without = gates and function(last, id)
  local from = find(last, id, 1, true)
  return from and sub(last, 1, from - 1) .. sub(last, find(last, ',', from, true) + 1) or last
end

-- Return a text, and after it the last admitted instances of a key with one more. They are made in one step, since the server
-- reads each byte of a new text.
local last_with = gates and function(text, last, id, score)
  -- a returning instance has its priority as a number
  local is_long = #last + ID_SIZE + #(score .. '') + 1 > MAX_LAST
  return text .. (is_long and sub(last, find(last, ',', 1, true) + 1) or last) .. id .. score .. ','
end

-- Whether the last admitted instance has a priority, of which `same` is the text and a comma.
local has_last = gates and function(last, same)
  local size = ID_SIZE + #same
  return sub(last, -#same) == same and (#last == size or byte(last, -size - 1) == 44)
end

local leave_admitted = gates and function(state, id)
  state.admitted, state.freed = max(0, state.admitted - 1), state.freed + 1
  state.last = state.admitted > 0 and last_without(state.last, id) or ''
end

-- Return the entry of a key after one change, an empty one if no instance is left; false if this needs the state of the key.
-- `text`: its entry, without last admitted ones. `change`: how many new instances of one template come, or minus how many
-- admitted ones leave. `most`: how many can be admitted. Keys that are not nearly full have equal entries, so `known` keeps
-- the results: change -> entry -> result.
local counts_after = gates and function(known, text, change, concurrency, most)
  local results = known[change]
  if not results then
    results = {}
    known[change] = results
  end
  local result = results[text]
  if result ~= nil then
    return result
  end
  result = false
  if byte(text) == 0 then
    local admitted, by_last, waiting = unpack_text(GATE_COUNTS, text)
    admitted = max(0, admitted + change)
    if waiting == 0 and admitted == 0 then
      result = ''
    elseif waiting == 0 and (change < 0 or admitted + NEAR < most) then
      result = pack(GATE_COUNTS, admitted, change < 0 and by_last or concurrency, 0)
    end
  end
  results[text] = result
  return result
end
