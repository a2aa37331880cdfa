-- Shared limits and paused kinds. A shared limit belongs to kinds, and bounds the claims of all of them together. A claim
-- passes over a kind that is paused or has a limit without room.
-- LIMITS has a field for each kind with limits or a pause: "k" and the kind -> "1 " if it is paused or "0 ", the
-- concurrency of its keys by the code and by the setting (0 for none) with a space after each, and the names of its
-- shared limits with NULs between them. Further fields: "l" and the name of each shared limit; "p" and a kind -> the note
-- of its pause; "s" and a kind -> the note of its setting; "g" and a kind with keys, see gates.lua.
-- The hash of a shared limit has the numbers that count (0: not limited), and where they come from:
--   concurrency, period (microseconds between two starts), burst (starts at once)
--   tat (theoretical arrival time of the next start, see LimitNumbers in Python), closed (no start before this time)
--   alarm (the moment at which an incarnation claims again, a space, and the incarnation)
--   kinds (with NULs between them), code and set (the numbers of the code and of the setting), note (of the setting)
-- Only claims look for damaged limits. A claim removes and reports one: it empties the field of a kind, or removes the
-- hash of a limit. Each claim tells its node that limits of its kinds are missing, so that the node publishes them again.
-- Nothing counts the claims of a limit: the indexes of Processing instances tell how many there are.

-- Nil if no limit is in use and no kind is paused: a script then makes none of these functions. They use few other
-- definitions, because a script makes those at each call.
-- While a script runs, a limit has `left`: how many starts are possible; `opens`: the moment at which time alone makes
-- further starts possible, or nil; `before`: how many starts were possible at first.
local shared = limited and (function()
  local self = {held_back = {}, damaged = {}, with_ends = {}, limits = {}, are_missing = false}
  local rules, limits, numbers, without_bodies = {}, self.limits, {}, {}

  -- Return fields of a hash, and whether the key has another type.
  local function fields_of(key, ...)
    local found = redis.pcall('HMGET', key, ...)
    if found.err and not find(found.err, '^WRONGTYPE ') then
      error(found)
    end
    return found.err and {} or found, found.err
  end

  -- Return the number of entries of a key after the planned writes.
  local function planned(writes, key)
    return writes and writes[key] and #writes[key] or 0
  end
  local function size_of(key)
    local size = call('ZCARD', key)
    return next(pending) and size + planned(pending.ZADD, key) / 2 - planned(pending.ZREM, key) or size
  end

  local function bodies_in(key)
    return call('SCARD', key) + planned(pending.SADD, key) - planned(pending.SREM, key)
  end

  function self.claimed(kind)
    return size_of(kind_key(PROCESSING, kind)) + bodies_in(kind_key('r', kind))
  end

  function self.queued(kind)
    return size_of(kind_key('q', kind)) + size_of(kind_key('s', kind))
  end

  -- Return the number of a text; false for any other text. Most limits have the same numbers.
  local function number_in(text)
    if numbers[text] == nil then
      numbers[text] = find(text, '^%d+$') and min(tonumber(text), LATEST) or false
    end
    return numbers[text]
  end

  -- Return a limit by its name. A damaged limit lets all pass, as a missing one does. A namespace can have a thousand
  -- limits that are full, so this and what follows make few texts and tables.
  function self.limit(name)
    local limit = limits[name]
    if limit == nil then
      local found, damaged = fields_of(PREFIX .. 'limit:' .. name, 'concurrency', 'period', 'burst', 'tat', 'closed',
        'alarm', 'kinds')
      local is_missing = not damaged and not (found[1] or found[2] or found[7])
      limit = {name = name, alarm = found[6] or '', kinds = {found[7] ~= '' and found[7] or nil},
        concurrency = number_in(found[1] or ''), period = number_in(found[2] or ''), burst = number_in(found[3] or ''),
        tat = number_in(found[4] or ''), closed = number_in(found[5] or ''), left = nil, before = nil, opens = nil}
      if find(found[7] or '', '\0', 1, true) then
        limit.kinds = {}
        for kind in string.gmatch(found[7], '[^%z]+') do
          limit.kinds[#limit.kinds + 1] = kind
        end
      end
      if damaged or not (limit.concurrency and limit.period and limit.burst and limit.tat and limit.closed)
        or limit.period > 0 and limit.burst == 0 then
        self.damaged['limit ' .. name] = not is_missing or nil
        limit = false
      end
      limits[name] = limit
    end
    return limit
  end

  -- Return how many starts a limit allows now.
  function self.left(limit)
    if not limit.left then
      local left, opens, period = LATEST, nil, limit.period
      if limit.concurrency > 0 then
        left = limit.concurrency
        local bodies = nil
        for n = 1, #limit.kinds do
          local kind = limit.kinds[n]
          left = left - size_of(kind_key(PROCESSING, kind))
          if pending.SADD or not without_bodies[kind] then
            bodies = bodies or {}
            bodies[#bodies + 1] = kind_key('r', kind)
          end
        end
        local has_bodies = bodies and (pending.SADD or call('EXISTS', unpack(bodies)) > 0)
        for n = 1, has_bodies and #bodies or 0 do
          left = left - bodies_in(bodies[n])
        end
      end
      if left > 0 and period > 0 then
        local latest_tat = now + limit.burst * period
        -- the rate was slower when this time was written, or the clock was set back: see STALE_US in Python
        limit.tat = limit.tat > latest_tat + 60000000 and latest_tat - period or limit.tat
        left = min(left, math.floor((latest_tat - max(limit.tat, now)) / period))
        opens = left <= 0 and limit.tat - (limit.burst - min(limit.burst, math.ceil(5000 / period))) * period or nil
      end
      if limit.closed > now and (left > 0 or opens) then
        left, opens = 0, max(opens or 0, limit.closed)
      end
      limit.left, limit.before, limit.opens = left, left, opens
    end
    return limit.left
  end

  -- Keep which of some kinds have no cancelled instances whose bodies still run.
  function self.look_for_bodies(kinds)
    local keys = {}
    for n, kind in ipairs(kinds) do
      keys[n] = kind_key('r', kind)
    end
    local has_any = keys[2] and call('EXISTS', unpack(keys)) > 0
    for _, kind in ipairs(keys[2] and not has_any and kinds or {}) do
      without_bodies[kind] = true
    end
  end

  function self.load(kinds)
    local fields = {}
    for n, kind in ipairs(kinds) do
      fields[n] = 'k' .. kind
    end
    local texts, has_other_type = {}, nil
    if #kinds > 0 then
      texts, has_other_type = fields_of(PREFIX .. 'limits', unpack(fields))
    end
    for n, kind in ipairs(kinds) do
      local text = has_other_type and '?' or texts[n]
      local paused, own, names = match(text or '', '^([01]) %d+ (%d+) (.*)$')
      local rule = paused and {paused = paused == '1', own = tonumber(own), limits = {}} or false
      self.are_missing = self.are_missing or text and not rule
      self.damaged['rule ' .. kind] = text and text ~= '' and not rule or nil
      for name in string.gmatch(names or '', '[^%z]+') do
        local limit = self.limit(name)
        rule.limits[#rule.limits + 1], self.are_missing = limit or nil, self.are_missing or not limit
      end
      rules[kind] = rule
    end
    self.look_for_bodies(kinds)
  end

  -- Return the rule of a kind: whether it is `paused`, `own`, the set concurrency of its keys, and the list of its
  -- `limits`; false for a kind that nothing holds back.
  function self.rule(kind)
    if rules[kind] == nil then
      self.load({kind})
    end
    return rules[kind] or false
  end

  -- Return how many instances of a kind can start now.
  function self.room(rule)
    local room = rule.paused and 0 or LATEST
    for n = 1, #rule.limits do
      local left = rule.limits[n].left or self.left(rule.limits[n])
      room = left < room and max(left, 0) or room
    end
    return room
  end

  -- Return whether time alone opens a limit of a kind without room.
  function self.opens(rule)
    local one, other = rule.limits[1], rule.limits[2]
    return one and one.opens or other and other.opens
  end

  function self.may_go(kind)
    local rule = self.rule(kind)
    return not rule or self.room(rule) > 0
  end

  -- Take or return starts of a kind.
  function self.take(rule, starts)
    for _, limit in ipairs(rule.limits) do
      limit.left = self.left(limit) - starts
    end
  end

  -- Return whether a claim of one instance of a kind only needs to take the instance.
  function self.is_simple(kind)
    local rule = self.rule(kind)
    local is_simple = not rule or not rule.paused
    for _, limit in ipairs(is_simple and rule and rule.limits or {}) do
      is_simple = is_simple and limit.period == 0 and limit.closed <= now and self.left(limit) > 0
    end
    return is_simple
  end

  -- Keep that claims of a kind end, before the first of these ends is planned. An end in a full limit makes room.
  function self.ends(kind)
    local rule = self.rule(kind)
    for _, limit in ipairs(rule and rule.limits or {}) do
      if not self.with_ends[limit.name] then
        self.with_ends[limit.name], limit.was_full = limit, self.left(limit) <= 0 and not limit.opens
      end
    end
  end

  return self
end)()
