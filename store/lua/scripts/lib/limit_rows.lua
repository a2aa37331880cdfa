-- The stored limits, as the scripts read and write them that publish, set and show limits. limits.lua has the format.

-- Return the texts of a list with NULs between them.
local function texts_of(joined)
  local texts = {}
  for text in string.gmatch(joined, '[^%z]+') do
    texts[#texts + 1] = text
  end
  return texts
end

-- Return three numbers of a text: concurrency, period and burst; nil if there is no such text.
local function numbers_in(text)
  local concurrency, period, burst = match(text or '', '^(%d+) (%d+) (%d+)$')
  return concurrency and {tonumber(concurrency), tonumber(period), tonumber(burst)}
end

-- Return what holds back a kind, from the text that LIMITS has for it or nil.
local function rule_in(text)
  local paused, by_code, by_setting, names = match(text or '', '^([01]) (%d+) (%d+) (.*)$')
  return {paused = paused or '0', by_code = tonumber(by_code or 0), by_setting = tonumber(by_setting or 0),
    names = texts_of(names or '')}
end

-- The fields of LIMITS that were read or written.
local limit_fields = {}

local function limit_field(field)
  if limit_fields[field] == nil then
    limit_fields[field] = coordination(LIMITS, field)[1] or false
  end
  return limit_fields[field]
end

-- Write a field of LIMITS, or remove the field if there is no text. LIMITED exists as long as LIMITS has a field.
local function set_limit_field(field, text)
  if text then
    local _, is_damaged = coordination(LIMITS, field)
    if is_damaged then
      call('UNLINK', LIMITS)
    end
    call('HSET', LIMITS, field, text)
    call('SET', LIMITED, '1')
  elseif limit_field(field) then
    call('HDEL', LIMITS, field)
    if call('HLEN', LIMITS) == 0 then
      call('UNLINK', LIMITED)
    end
  end
  limit_fields[field] = text or false
end

local function read_rule(kind)
  return rule_in(limit_field('k' .. kind))
end

-- Write what holds back a kind; return whether that changes anything.
local function write_rule(kind, rule)
  local text = rule.paused .. ' ' .. digits(rule.by_code) .. ' ' .. digits(rule.by_setting) .. ' ' .. table.concat(rule.names, '\0')
  text = text ~= '0 0 0 ' and text or false
  local is_changed = text ~= limit_field('k' .. kind)
  if is_changed and not text and call('HLEN', kind_key('g', kind)) > 0 then
    set_limit_field('g' .. kind, '')
  end
  if is_changed then
    set_limit_field('k' .. kind, text)
  end
  if not rule.names[1] then
    call('UNLINK', releasing_key(kind))
  end
  return is_changed
end

-- Return the kinds of a limit that cannot be read, from the rules of all kinds: its kinds may publish it one by one, and
-- claims only miss a limit that cannot be read.
local function lost_kinds(name)
  local kinds, stored = {}, call('HGETALL', LIMITS)
  for n = 1, #stored, 2 do
    for _, one in ipairs(sub(stored[n], 1, 1) == 'k' and rule_in(stored[n + 1]).names or {}) do
      kinds[#kinds + 1] = one == name and sub(stored[n], 2) or nil
    end
  end
  table.sort(kinds)
  return kinds
end

-- Return a stored limit: the numbers of its code, those of its setting or nil, its note, and its kinds. A field that
-- cannot be read is as a missing one.
local function read_limit(name)
  local found, text = coordination(limit_key(name), 'code', 'set', 'note'), limit_field('l' .. name)
  local limit = limit_in(name, text)
  return {code = numbers_in(found[1]), set = numbers_in(found[2]), note = found[3] or '',
    kinds = limit and limit.kinds or text and lost_kinds(name) or {}}
end

-- Write a limit, or remove one without kinds and without a setting. Return whether the numbers that count change.
local function write_limit(name, limit)
  local key, code, set = limit_key(name), limit.code or {0, 0, 0}, limit.set or {0, 0, 0}
  local _, is_damaged = coordination(key, 'code')
  if is_damaged or not limit.kinds[1] and not limit.set then
    call('UNLINK', key)
  end
  if not limit.kinds[1] and not limit.set then
    set_limit_field('l' .. name, nil)
    return true
  end
  local rate, before = set[2] > 0 and set or code, limit_in(name, limit_field('l' .. name)) or {}
  local after = {concurrency = set[1] > 0 and set[1] or code[1], period = rate[2],
    burst = set[2] == 0 and set[3] > 0 and set[3] or rate[3], tat = before.tat or 0, closed = before.closed or 0,
    alarm = before.alarm or '', kinds = limit.kinds}
  call('HSET', key, 'code', table.concat(code, ' '), 'note', limit.note)
  if limit.set then
    call('HSET', key, 'set', table.concat(limit.set, ' '))
  else
    call('HDEL', key, 'set')
  end
  set_limit_field('l' .. name, text_of_limit(after))
  return before.concurrency ~= after.concurrency or before.period ~= after.period or before.burst ~= after.burst
end

local function kinds_without(kinds, kind)
  local others = {}
  for _, other in ipairs(kinds) do
    others[#others + 1] = other ~= kind and other or nil
  end
  return others
end

-- Replace the limits of a kind, and add the kinds that may go on to `woken_kinds`. Return nothing; or the name and the
-- number of kinds of a limit that would have too many.
local function replace_limits(kind, by_code, published, woken_kinds)
  local rule, limits, names = read_rule(kind), {}, {}
  for _, name in ipairs(rule.names) do
    limits[name] = read_limit(name)
    limits[name].kinds = kinds_without(limits[name].kinds, kind)
  end
  for n, one in ipairs(published) do
    local limit = limits[one.name] or read_limit(one.name)
    limit.kinds, limit.code, limits[one.name], names[n] = kinds_without(limit.kinds, kind), one.numbers, limit, one.name
    table.insert(limit.kinds, kind)
    table.sort(limit.kinds)
    if #limit.kinds > MAX_LIMIT_KINDS then
      return one.name, #limit.kinds
    end
  end
  rule.by_code, rule.names = by_code, names
  local is_changed = write_rule(kind, rule)
  for name, limit in pairs(limits) do
    if write_limit(name, limit) or is_changed then
      for _, other in ipairs(limit.kinds) do
        woken_kinds[#woken_kinds + 1] = other
      end
    end
  end
  woken_kinds[#woken_kinds + 1] = is_changed and kind or nil
end

-- Wake nodes for the queued instances of kinds that may go on.
local function wake_kinds(kinds)
  for _, kind in ipairs(shared and kinds or {}) do
    local queued = queued_of(kind)
    newly_due[kind] = queued > 0 and queued or nil
  end
  wake_for_new_work()
  write_all()
end
