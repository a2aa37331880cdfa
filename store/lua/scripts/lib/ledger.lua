-- The ledger of a schedule is a bounded list of fires; each record is a map in MessagePack with the fields of
-- FireRecord. A skipped trigger also has `by_hand`, so that no fire takes it for the record of its nominal time. A
-- stretch that one call joined also has the requests of that call, so that each request gets the same answer again.
local MAX_TRIMMED = 16

local FIRE_NUMBERS = {'nominal_us', 'at_us', 'until_us', 'count', 'term'}
local FIRE_TEXTS = {'outcome', 'instance', 'cancelled', 'reason', 'node', 'coordinator', 'request', 'requests'}

-- Return the decoded record, or an empty table if the record cannot be read.
local function read_fire(raw)
  local ok, record = pcall(cmsgpack.unpack, raw)
  if not ok or type(record) ~= 'table' or not record.nominal_us or not record.outcome then
    return {}
  end
  for _, field in ipairs(FIRE_NUMBERS) do
    local value = record[field]
    if value ~= nil and not (type(value) == 'number' and value > -2 ^ 63 and value < 2 ^ 63 and value % 1 == 0) then
      return {}
    end
  end
  for _, field in ipairs(FIRE_TEXTS) do
    local value = record[field]
    if value ~= nil and not (type(value) == 'string' and is_text(value)) then
      return {}
    end
  end
  return record
end

local function ends_at(record)
  return record.until_us or record.nominal_us
end

local function is_nominal(record)
  return record.outcome ~= 'triggered' and not record.by_hand
end

-- Return the raw record that a request wrote about a nominal time. If there is none, return nil and the record of the
-- instance of that time (or of the attempt to create one), decoded and raw.
local function look_up(name, nominal, request)
  local known, known_raw = nil, nil
  for _, raw in ipairs(call('ZRANGE', fired_key(name), nominal, nominal, 'BYSCORE')) do
    local record = read_fire(raw)
    if record.request == request then
      return raw
    elseif is_nominal(record) and not (known and known.instance) then
      known, known_raw = record, raw
    end
  end
  local raw = call('ZRANGE', gaps_key(name), nominal, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1)[1]
  local stretch = raw and read_fire(raw) or {}
  if stretch.request == request or stretch.requests and find(stretch.requests, request, 1, true) then
    return raw
  end
  return nil, known, known_raw
end

local function add_fire(key, record)
  local raw = cmsgpack.pack(record)
  add_pair('ZADD', key, record.nominal_us, raw)
  return raw
end

-- Add a stretch: consecutive nominal times without instances. The new stretch is joined with the one directly before,
-- which begins at `stretch`, if outcome and reason are the same.
local function add_gap(name, stretch, record)
  local key = gaps_key(name)
  local raw = stretch ~= '' and call('ZRANGE', key, stretch, stretch, 'BYSCORE')[1]
  local before = raw and read_fire(raw) or {}
  if before.outcome == record.outcome and (before.reason or '') == (record.reason or '') then
    add('ZREM', key, raw)
    record.until_us = ends_at(record)
    record.nominal_us = before.nominal_us
    record.count = (before.count or 1) + (record.count or 1)
    if before.at_us == now then
      record.requests = (before.requests or before.request or '') .. '\n' .. (record.request or '')
    end
  end
  return add_fire(key, record)
end

-- Whether a record is removed before another: at one nominal time, the stretch, the instance, then triggers by request.
local function goes_first(one, other)
  if one.nominal ~= other.nominal then
    return one.nominal < other.nominal
  elseif one.rank ~= other.rank then
    return one.rank < other.rank
  end
  return one.request < other.request
end

-- Remove the earliest records beyond the limits of number and age, except those of `written`: the records of this call
-- are the answers if the same call comes again. The caller sends all other writes first. `trimmed` is the latest nominal
-- time whose record of an instance was removed.
local function trim_ledger(name, max_fires, kept, trimmed, written)
  local keys = {fired_key(name), gaps_key(name)}
  local surplus, any_old = -max_fires, false
  for _, key in ipairs(keys) do
    local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    surplus = surplus + call('ZCARD', key)
    -- The nominal time of the first record is enough to find old records: a record is rarely written before its nominal
    -- time.
    any_old = any_old or first and tonumber(first) + kept < now
  end
  if surplus <= 0 and not any_old then
    return
  end
  local early = {}
  for _, key in ipairs(keys) do
    for _, raw in ipairs(call('ZRANGE', key, 0, MAX_TRIMMED - 1)) do
      local record = read_fire(raw)
      local rank = key == gaps_key(name) and 0 or is_nominal(record) and 1 or 2
      early[#early + 1] = {key = key, raw = raw, record = record, nominal = record.nominal_us or 0, rank = rank,
        request = record.request or ''}
    end
  end
  table.sort(early, goes_first)
  local latest_trimmed, removed = tonumber(trimmed), 0
  for n = 1, min(MAX_TRIMMED, #early) do
    local one = early[n]
    if not written[one.raw] and (removed < surplus or (one.record.at_us or 0) + kept < now) then
      call('ZREM', one.key, one.raw)
      removed = removed + 1
      latest_trimmed = one.record.instance and is_nominal(one.record) and max(latest_trimmed, one.nominal) or latest_trimmed
    end
  end
  call('HSET', schedule_key(name), 'trimmed', digits(latest_trimmed))
end
