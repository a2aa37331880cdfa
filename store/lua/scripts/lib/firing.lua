-- Records of nominal times. The script reads, checks and writes each fire before the next one. So a fire sees the
-- earlier fires of the call, and no fire is half done.
--
-- ARGV     node name; coordinator ("" for no term), number of its term; limit of records in a ledger, how long a record
--          is kept; default retention; number of fires;
--          per fire: schedule, revision, nominal time, next time ("" for none), its record as MessagePack,
--          overlap ("" for no instance); with an instance: limit of parked ones (and concurrency and key, as in enqueue.lua),
--          id, spec, template as in arrival.lua
-- Reply    per fire {letter, record or ""}: D done, S stale, K known, T trimmed, X deposed
local FIRE_SIZE, INSTANCE_SIZE, FIRST_FIRE = 6, 3, 8

local function is_deposed(coordinator, number)
  local highest = coordinator ~= '' and (highest_term(coordinator) or -1)
  if highest and highest < tonumber(number) then
    add_pair('HSET', TERMS, coordinator, number)
  end
  return highest and highest > tonumber(number)
end

-- Return the letter of the reply for a fire that cannot be done, or nil if the fire can be done.
local function refusal(fire, revision, next_time, paused, trimmed)
  if revision ~= fire.revision then
    return 'S'
  elseif fire.advances then
    return (paused == '1' and fire.outcome ~= 'paused' or next_time ~= fire.nominal) and 'S' or nil
  elseif fire.outcome == 'backfilled' then
    return fire.has_instance and 'K' or tonumber(fire.nominal) <= tonumber(trimmed) and 'T' or nil
  end
end

-- Do one fire. `make` plans the instance of the fire, and writes into the record the id of the instance, or the reason
-- why there is none. `written` has the records of this call.
local function fire_one(at, deposed, make, written)
  local name, nominal, next_time = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  local key = schedule_key(name)
  local revision, next_now, paused, last, trimmed, stretch =
    unpack(call('HMGET', key, 'revision', 'next', 'paused', 'last', 'trimmed', 'stretch'))
  if not revision then
    return {'S', ''}
  end
  -- Times that cannot be read: no time up to now is filled again.
  last = is_moment(last) and last or '0'
  trimmed = is_moment(trimmed) and trimmed or digits(max(tonumber(last), now))
  stretch = is_moment(stretch) and stretch or ''
  local record = cmsgpack.unpack(ARGV[at + 4])
  local outcome = record.outcome
  local done, known, known_raw = look_up(name, nominal, record.request)
  if done then
    return {'D', done}
  elseif deposed then
    return {'X', ''}
  end
  local advances = outcome ~= 'backfilled' and outcome ~= 'triggered'
  local has_instance = known and known.instance
  local no = refusal({revision = ARGV[at + 1], nominal = nominal, outcome = outcome, advances = advances,
    has_instance = has_instance}, revision, next_now, paused, trimmed)
  if no then
    return {no, ''}
  end
  local answer = {'D', ''}
  -- The leader decides by its own clock that a fire is due, and that clock can be ahead of the server's. So the
  -- recorded time is never before the nominal time.
  record.at_us = outcome == 'fired' and max(now, record.nominal_us) or now
  if outcome == 'fired' and has_instance then
    -- A backfill created the instance before the nominal time came, so the fire must not create a second one.
    answer[1], stretch = 'K', ''
  else
    if ARGV[at + 5] ~= '' then
      make(at + FIRE_SIZE, name, record, ARGV[at + 5])
    end
    if advances and not record.instance then
      answer[2] = add_gap(name, stretch, record)
      stretch = digits(record.nominal_us)
    else
      if known_raw and outcome ~= 'triggered' then
        add('ZREM', fired_key(name), known_raw)
      end
      answer[2] = add_fire(fired_key(name), record)
      stretch = advances and '' or stretch
    end
  end
  if advances then
    add_pair('HSET', key, 'next', next_time)
    add_pair('HSET', key, 'stretch', stretch)
  end
  if outcome ~= 'triggered' then
    add_pair('HSET', key, 'last', digits(max(tonumber(last), ends_at(record))))
  end
  written[answer[2]] = true
  write_all()
  trim_ledger(name, tonumber(ARGV[4]), tonumber(ARGV[5]), trimmed, written)
  return answer
end

local function fire_all(make)
  local deposed = is_deposed(ARGV[2], ARGV[3])
  local replies, written, at = {}, {}, FIRST_FIRE
  for n = 1, tonumber(ARGV[FIRST_FIRE - 1]) do
    replies[n] = fire_one(at, deposed, make, written)
    at = at + FIRE_SIZE + (ARGV[at + 5] ~= '' and INSTANCE_SIZE + TEMPLATE_SIZE or 0)
  end
  write_all()
  return replies
end
