-- The counts of the keys of gates: entries of `n:`, see gates.lua.
--
-- A key with room for more than NEAR does not keep its last admitted instances. MAX_LAST: bytes of them that it keeps.
local NEAR, MAX_LAST = 4, 160

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

-- Return the state of a key from its entry in `n:`: besides what the entry has, how many admitted instances leave (`freed`).
-- Later also the instances that come to a gate (`came`), and the members of waiting ones that leave (`left`).
local GATE_COUNTS, NO_COUNTS = '>I4I4I4', '\0\0\0\0\0\0\0\0\0\0\0\0'
local key_state = gates and function(text, all_waiting, key)
  local state = {admitted = 0, concurrency = 0, waiting = 0, last = '', freed = 0, came = nil, left = nil}
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
