#!lua flags=allow-oom
-- Free the keys of some instances that are gone, and let the next ones pass. With the last of them, free the room of
-- bodies that are gone, and remove the limits of kinds that have left the catalogue.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     how long a kind is kept; kind and cursor ("" and "0" to begin); number of instances to look at
-- Reply    {number of admissions that belonged to no instance; next kind and cursor ("" and "0" at the end); entries that
--          could not be read, as in write_set_aside}
local since, from, at, freed = now - tonumber(ARGV[1]), ARGV[2], ARGV[3], 0
local stored, kinds, seen = shared and call('HGETALL', LIMITS) or {}, {}, {}
for n = 1, #stored, 2 do
  local what, kind = sub(stored[n], 1, 1), sub(stored[n], 2)
  if (what == 'k' or what == 'g') and kind >= from and not seen[kind] and gates.has(kind) then
    seen[kind], kinds[#kinds + 1] = true, kind
  end
end
table.sort(kinds)

-- Count the instances of each key of a kind again, after damage.
local function count_again(kind)
  local states, numbers, entries = {}, {}, call('HGETALL', kind_key('g', kind))
  for n = 2, #entries, 2 do
    local letter, _, number, key = gates.parsed(entries[n])
    if letter then
      states[key], numbers[key] = states[key] or {0, 0}, unpack_text('>I4', number)
      local state = states[key]
      if letter == 'q' then
        state[1] = state[1] + 1
      elseif letter ~= '-' then
        state[2] = state[2] + 1
      end
    end
  end
  call('UNLINK', kind_key('n', kind))
  for key, state in pairs(states) do
    if state[1] + state[2] > 0 then
      call('HSET', kind_key('n', kind), key, pack('>I4I4I4', state[1], numbers[key], state[2]))
    end
  end
end

local kind, next_kind, next_at = kinds[1], '', '0'
if kind then
  local found, ids, keys, touched = call('HSCAN', kind_key('g', kind), at, 'COUNT', ARGV[4]), {}, {}, {}
  local records = {}
  for n = 1, #found[2], 2 do
    local letter, _, _, key = gates.parsed(found[2][n + 1])
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
      gates.leaves(one[1], kind, true)
      freed = freed + (one[2] == 'q' and 1 or 0)
    end
  end
  local names = {}
  for key in pairs(touched) do
    names[#names + 1] = key
  end
  for n, text in ipairs(names[1] and call('HMGET', kind_key('n', kind), unpack(names)) or {}) do
    if text and #text < 12 then
      count_stray(names[n], kind, 'the counts of this key cannot be read and are made anew')
    end
  end
  if strays[1] then
    count_again(kind)
  end
  pass_kind(kind, names)
  gates.leaving = {}
  wake_for_new_work()
  write_all()
  next_kind, next_at = found[1] ~= '0' and kind or kinds[2] or '', found[1]
end

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
