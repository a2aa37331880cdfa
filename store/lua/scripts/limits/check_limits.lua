#!lua flags=allow-oom
-- Free the keys of some instances that are gone, and let the next ones pass. With the last of them, free the room of
-- bodies that are gone, and remove the limits of kinds that have left the catalogue.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     how long a kind is kept; kind and cursor ("" and "0" to begin); number of instances to look at
-- Reply    {number of admissions that belonged to no instance; next kind and cursor ("" and "0" at the end); entries that
--          could not be read, as in write_set_aside}
local since, from, freed = now - tonumber(ARGV[1]), ARGV[2], 0
local is_unmarked = not limited and not select(2, coordination(LIMITS, 'k'))
local stored, kinds, seen = (shared or is_unmarked) and call('HGETALL', LIMITS) or {}, {}, {}
for n = 1, #stored, 2 do
  local what, kind = sub(stored[n], 1, 1), sub(stored[n], 2)
  if (what == 'k' or what == 'g') and kind >= from and not seen[kind] then
    seen[kind], kinds[#kinds + 1] = true, kind
  end
end
table.sort(kinds)

-- Without the key LIMITED, this script has no functions for limits: the next call counts what came and left meanwhile.
if is_unmarked and stored[1] then
  call('SET', LIMITED, '1')
  count_stray('limited', 'key', 'it was missing, so no limit held; it is written again', 'l')
  return {0, kinds[1] or '', '0', write_set_aside()}
end

-- A kind with at most this many entries is counted as a whole, so that wrong counts of its keys are found.
local MAX_COUNTED = 5000
local NUMBERS = '>I4I4I4'

-- Count the instances of each key of a kind, and correct what differs: the counts, and the waiting instances that have
-- no entry or are not in the sorted set. Return the keys that differ.
local function count_again(kind)
  local g, n, states, known, wrong = kind_key('g', kind), kind_key('n', kind), {}, {}, {}
  local function state_of(key, number)
    states[key] = states[key] or {admitted = 0, waiting = 0, number = number, missing = {}}
    return states[key]
  end
  local entries, counts = call('HGETALL', g), call('HGETALL', n)
  for at = 2, #entries, 2 do
    local letter, time, number, key = parsed_entry(entries[at])
    if letter then
      local state, id = state_of(key, unpack_text('>I4', number)), entries[at - 1]
      known[id] = true
      state.admitted = state.admitted + (letter == 'q' and 1 or 0)
      if letter ~= 'q' and letter ~= '-' then
        state.waiting, state.missing[time .. id .. letter .. number] = state.waiting + 1, id
      end
    end
  end
  local stored = {}
  for at = 1, #counts, 2 do
    stored[counts[at]] = counts[at + 1]
    state_of(counts[at], 1)
  end
  for key, state in pairs(states) do
    local queue, text = waiting_key(kind, key), stored[key]
    local held, rest = without_held(text)
    local is_whole, admitted, number, waiting = pcall(unpack_text, NUMBERS, rest or text or pack(NUMBERS, 0, 0, 0))
    local size = call('ZCARD', queue) + (held and #held / 2 or 0)
    for at = 2, held and #held or 0, 2 do
      is_whole = is_whole and state.missing[held[at]]
    end
    if not is_whole or admitted ~= state.admitted or waiting ~= state.waiting or waiting ~= size then
      wrong[#wrong + 1] = key
      if held then
        call('ZADD', queue, unpack(held))
      end
      for _, member in ipairs(call('ZRANGE', queue, 0, -1)) do
        local id = sub(member, 17, 52)
        if state.missing[member] then
          state.missing[member] = nil
        elseif known[id] or #member ~= 57 or call('EXISTS', record_key(id)) == 0 then
          call('ZREM', queue, member)
        else
          known[id], state.waiting = true, state.waiting + 1
          call('HSET', g, id, sub(member, 53, 53) .. sub(member, 1, 16) .. sub(member, 54) .. key)
        end
      end
      for member, id in pairs(state.missing) do
        local record = decode(call('MGET', record_key(id))[1])
        if record and record.state == SCHEDULED then
          call('ZADD', queue, record.priority, member)
        else
          call('HDEL', g, id)
          state.waiting = state.waiting - 1
        end
      end
      if state.admitted + state.waiting > 0 then
        local is_number = is_whole and number > 0 and number <= 1000000
        call('HSET', n, key, pack(NUMBERS, state.admitted, is_number and number or state.number, state.waiting))
      else
        call('HDEL', n, key)
      end
    end
  end
  return wrong
end

-- Check a piece of the instances of a kind. Return the next cursor, and the number of instances.
local function check_kind(kind, at)
  local found, ids, keys, touched = call('HSCAN', kind_key('g', kind), at, 'COUNT', ARGV[4]), {}, {}, {}
  local records, known_strays = {}, #strays
  for n = 1, #found[2], 2 do
    local letter, _, _, key = parsed_entry(found[2][n + 1])
    if letter then
      ids[#ids + 1], keys[#keys + 1] = {found[2][n], letter}, record_key(found[2][n])
      touched[key] = true
    else
      call('HDEL', kind_key('g', kind), found[2][n])
      count_stray(found[2][n], kind, 'its key cannot be read and is removed')
    end
  end
  for first = 1, #keys, SLICE do
    for n, raw in ipairs(call('MGET', unpack(keys, first, min(first + SLICE - 1, #keys)))) do
      records[first + n - 1] = raw
    end
  end
  for n, one in ipairs(ids) do
    local raw = records[n]
    if not raw or is_final(byte(raw, 2) or 0) and (byte(raw, 3) or 0) % 2 ~= RELEASING then
      leave_gate(one[1], kind, true)
      freed = freed + (one[2] == 'q' and 1 or 0)
    end
  end
  local names, passing, is_whole, rule = {}, {}, #strays == known_strays, shared.rule(kind)
  local is_one_at_a_time = not rule or rule.own <= 1
  for key in pairs(touched) do
    names[#names + 1] = key
  end
  for at, text in ipairs(names[1] and call('HMGET', kind_key('n', kind), unpack(names)) or {}) do
    local waiting = text and #text >= 12 and select(3, unpack_text(NUMBERS, text)) or 0
    local held = select(3, held_in(text)) or 0
    is_whole = is_whole and waiting == held + call('ZCARD', waiting_key(kind, names[at]))
    -- A key with waiting instances in its entry is full; `pass_kind` would move them to the sorted set.
    passing[#passing + 1] = not (held > 0 and is_one_at_a_time) and names[at] or nil
  end
  local size = call('HLEN', kind_key('g', kind)) + call('HLEN', kind_key('n', kind))
  if not is_whole or at == '0' and size <= MAX_COUNTED then
    for _, key in ipairs(count_again(kind)) do
      count_stray(key, kind, 'the counts of this key were wrong and are made anew')
      passing[#passing + 1] = key
    end
  end
  pass_kind(kind, passing)
  gates.leaving = {}
  return found[1], #ids
end

-- A kind counts as an instance, since a namespace can have thousands of kinds with few instances or none.
local place, next_at, looked_at = 1, kinds[1] == from and ARGV[3] or '0', 0
while kinds[place] and looked_at < tonumber(ARGV[4]) do
  local kind, size = kinds[place], 0
  if has_keys(kind) or call('HLEN', kind_key('n', kind)) > 0 then
    next_at, size = check_kind(kind, next_at)
  else
    next_at = '0'
  end
  if next_at ~= '0' then
    break
  end
  place, looked_at = place + 1, looked_at + 1 + size
end
if gates then
  wake_for_new_work()
  write_all()
end
local next_kind = kinds[place] or ''

-- Free the room of bodies whose claims are gone; return how many there were.
local function free_bodies(of)
  local bodies, body_keys, count = call('SRANDMEMBER', releasing_key(of), 500), {}, 0
  for n, id in ipairs(bodies) do
    body_keys[n] = record_key(id)
  end
  for n, raw in ipairs(bodies[1] and call('MGET', unpack(body_keys)) or {}) do
    if not raw or (byte(raw, 3) or 0) % 2 ~= RELEASING then
      call('SREM', releasing_key(of), bodies[n])
      count = count + 1
    end
  end
  return count
end

if next_kind == '' then
  local woken_kinds = {}
  for n = 1, #stored, 2 do
    local what, of = sub(stored[n], 1, 1), sub(stored[n], 2)
    local bodies = what == 'k' and free_bodies(of) or 0
    freed, woken_kinds[#woken_kinds + 1] = freed + bodies, bodies > 0 and of or nil
    local rule = what == 'k' and rule_in(stored[n + 1])
    local published = rule and (rule.names[1] or rule.by_code > 0) and (call('ZSCORE', CATALOGUE, of) or '0')
    if published and tonumber(published) <= since then
      replace_limits(of, 0, {}, woken_kinds)
    elseif what == 'g' and call('HLEN', kind_key('g', of)) == 0 then
      set_limit_field(stored[n], nil)
    end
  end
  wake_kinds(woken_kinds)
end
return {freed, next_kind, next_at, write_set_aside()}
