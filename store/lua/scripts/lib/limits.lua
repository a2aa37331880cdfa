-- Shared limits and paused kinds. A shared limit belongs to kinds, and bounds the claims of all of them together. A claim
-- passes over a kind that is paused or has a limit without room.
-- LIMITS has a field for each kind with limits or a pause: "k" and the kind -> "1 " if it is paused or "0 ", the
-- concurrency of its keys by the code and by the setting (0 for none) with a space after each, and the names of its
-- shared limits with NULs between them. Further fields: "p" and a kind -> the note of its pause; "s" and a kind -> the note
-- of its setting; "g" and a kind with keys, see gates.lua.
-- It also has a field for each shared limit, so that a claim reads many limits at once: "l" and the name -> what claims
-- need, with a space after each number, and a NUL in front of each kind:
--   concurrency, period (microseconds between two starts), burst (starts at once): the numbers that count, 0: not limited
--   tat (theoretical arrival time of the next start, see LimitNumbers in Python), closed (no start before this time)
--   alarm (the moment at which an incarnation claims again, a space, and the incarnation; or nothing), kinds
-- The hash of a shared limit tells where its numbers come from: code and set (the numbers of the code and of the setting),
-- and note (of the setting).
-- Only claims look for damaged limits. A claim reports one and empties its field. Each claim tells its node that limits
-- of its kinds are missing, or LIMITS as a whole, so that the node publishes them again.
-- Nothing counts the claims of a limit: the indexes of Processing instances tell how many there are.

-- Return a shared limit from the text that LIMITS has for it; nil for a missing or damaged one. A namespace can have a
-- thousand limits that are full, so this and what follows make few texts and tables. Most numbers are 0.
local function limit_in(name, text)
  local concurrency, period, burst, tat, closed, alarm, kind =
    match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) ([^%z]*)%z?(.*)$')
  if not concurrency or period ~= '0' and burst == '0' then
    return nil
  end
  local limit = {name = name, concurrency = tonumber(concurrency), period = period == '0' and 0 or tonumber(period),
    burst = burst == '0' and 0 or tonumber(burst), tat = tat == '0' and 0 or min(tonumber(tat), LATEST),
    closed = closed == '0' and 0 or min(tonumber(closed), LATEST), alarm = alarm,
    kinds = {kind ~= '' and kind or nil}, left = nil, before = nil, opens = nil}
  if find(kind, '\0', 1, true) then
    limit.kinds = {}
    for one in string.gmatch(kind, '[^%z]+') do
      limit.kinds[#limit.kinds + 1] = one
    end
  end
  return limit
end

local function text_of_limit(limit)
  return table.concat({digits(limit.concurrency), digits(limit.period), digits(limit.burst), digits(limit.tat),
    digits(limit.closed), table.concat({limit.alarm, unpack(limit.kinds)}, '\0')}, ' ')
end

-- Nil if no limit is in use and no kind is paused: a script then makes none of these functions. They use few other
-- definitions, because a script makes those at each call.
-- While a script runs, a limit has `left`: how many starts are possible; `opens`: the moment at which time alone makes
-- further starts possible, or nil; `before`: how many starts were possible at first.
local shared = limited and (function()
  local self = {held_back = {}, damaged = {}, with_ends = {}, limits = {}, are_missing = false, has_fields = false,
    followed_by_claim = nil, makes_room = nil}
  local rules, limits, claimed_prefix = {}, self.limits, PREFIX .. PROCESSING .. ':'

  -- Return fields of LIMITS, and whether the key has another type.
  local function read_fields(fields)
    local found = redis.pcall('HMGET', PREFIX .. 'limits', unpack(fields))
    if found.err and not find(found.err, '^WRONGTYPE ') then
      error(found)
    end
    return found.err and {} or found, found.err
  end

  -- Return the number of entries of a key after the planned writes: of a sorted set, or of a set of cancelled instances.
  local function size_of(key, is_set)
    local size, added, removed = call(is_set and 'SCARD' or 'ZCARD', key), nil, nil
    if next(pending) then
      added, removed = pending[is_set and 'SADD' or 'ZADD'], pending[is_set and 'SREM' or 'ZREM']
      added, removed = added and added[key], removed and removed[key]
      size = size + (added and #added or 0) / (is_set and 1 or 2) - (removed and #removed or 0)
    end
    return size
  end
  self.size_of = size_of

  -- Read limits. A damaged limit lets all pass, as a missing one does.
  function self.load_limits(names)
    for first = 1, #names, SLICE do
      local fields = {}
      for n = first, min(first + SLICE - 1, #names) do
        fields[#fields + 1] = 'l' .. names[n]
      end
      local texts, damaged = read_fields(fields)
      for n = 1, #fields do
        local name, text = names[first + n - 1], texts[n]
        local limit = limit_in(name, text) or false
        if not limit then
          self.damaged['limit ' .. name] = (damaged or text and text ~= '') and true or nil
        end
        limits[name] = limit
      end
    end
  end

  -- Return how many starts a limit allows now.
  function self.left(limit)
    if not limit.left then
      local left, opens, period = LATEST, nil, limit.period
      if limit.concurrency > 0 then
        left = limit.concurrency
        for n = 1, #limit.kinds do
          left = left - size_of(claimed_prefix .. limit.kinds[n])
        end
        -- Most full limits are full without the bodies of cancelled instances.
        local bodies = {}
        for n = 1, left > 0 and #limit.kinds or 0 do
          bodies[n] = kind_key('r', limit.kinds[n])
        end
        local has_bodies = bodies[1] and (pending.SADD or call('EXISTS', unpack(bodies)) > 0)
        for n = 1, has_bodies and #bodies or 0 do
          left = left - size_of(bodies[n], true)
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

  -- Read the rules of kinds, and their limits.
  function self.load(kinds)
    local fields, names, texts, has_other_type = {}, {}, {}, nil
    for n = 1, #kinds do
      fields[n] = 'k' .. kinds[n]
    end
    if fields[1] then
      texts, has_other_type = read_fields(fields)
    end
    for n = 1, #kinds do
      local kind, text = kinds[n], has_other_type and '?' or texts[n]
      local paused, own, one, other = match(text or '', '^([01]) %d+ (%d+) ([^%z]*)%z?([^%z]*)$')
      self.are_missing, self.has_fields = self.are_missing or text and not paused, self.has_fields or text
      self.damaged['rule ' .. kind] = text and text ~= '' and not paused or nil
      rules[kind] = paused and {paused = paused == '1', own = tonumber(own), limits = {}, one = one, other = other} or false
      for at = 1, paused and 2 or 0 do
        local name = at == 1 and one or other
        if name ~= '' and limits[name] == nil then
          names[#names + 1], limits[name] = name, false
        end
      end
    end
    if names[1] then
      self.load_limits(names)
    end
    for n = 1, #kinds do
      local rule = rules[kinds[n]]
      -- an index of heads with a stale entry names a kind twice
      for at = 1, rule and not rule.limits[1] and 2 or 0 do
        local name = at == 1 and rule.one or rule.other
        local limit = name == '' or limits[name]
        rule.limits[#rule.limits + 1], self.are_missing = name ~= '' and limit or nil, self.are_missing or not limit
      end
    end
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
    local room = rule and rule.paused and 0 or LATEST
    for n = 1, rule and #rule.limits or 0 do
      local left = rule.limits[n].left or self.left(rule.limits[n])
      room = left < room and max(left, 0) or room
    end
    return room
  end

  -- Take or return starts of a kind.
  function self.take(rule, starts)
    for _, limit in ipairs(rule.limits) do
      limit.left = self.left(limit) - starts
    end
  end

  -- Keep that claims of a kind end, before the first of these ends is planned. An end in a full limit makes room.
  function self.ends(kind)
    local rule = self.rule(kind)
    for _, limit in ipairs(rule and rule.limits or {}) do
      if not self.with_ends[limit.name] then
        self.with_ends[limit.name], limit.was_full = limit, self.left(limit) <= 0 and not limit.opens
        self.makes_room = self.makes_room or limit.was_full
      end
    end
  end

  return self
end)()

-- Return a limit by its name; false for a missing or damaged one.
local limit_of = shared and function(name)
  if shared.limits[name] == nil then
    shared.load_limits({name})
  end
  return shared.limits[name]
end

local claimed_of = shared and function(kind)
  return shared.size_of(kind_key(PROCESSING, kind)) + shared.size_of(kind_key('r', kind), true)
end

local queued_of = shared and function(kind)
  return shared.size_of(kind_key('q', kind)) + shared.size_of(kind_key('s', kind))
end
