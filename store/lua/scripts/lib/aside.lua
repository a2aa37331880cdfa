-- What cannot be read is set aside: out of every queue and index, its bytes kept for a week, counted and reported.
local asides = {}
call('LLEN', ASIDE)

-- An empty kind: not known. Its schedule's slot is settled by the script.
local function set_aside(id, kind, why)
  asides[#asides + 1] = {id, kind, why}
  local schedule = call('HGET', SLOTS, id)
  if schedule then
    leave_slot(schedule, id)
  end
end

-- Where an instance may be indexed: of an unknown kind, under one of the first kinds.
local function kinds_of_aside(kind)
  known_kinds = {}
  return kind ~= '' and {kind} or some_kinds('0', 1000)
end

local function unindex(id, kinds)
  for _, kind in ipairs(kinds) do
    for _, state in ipairs(SINGLE) do
      call('ZREM', index_key(state, kind), id)
      call('ZREM', expiry_key(kind), id .. state, id .. state .. '+')
    end
  end
end

-- Does the writes, and answers what to report: id, kind, reason, one after the other.
local function put_aside()
  local ASIDE_LIMIT, ASIDE_MS, MAX_SEARCHED = 1000, 7 * 86400000, 5000
  local report = {}
  for n, one in ipairs(asides) do
    local id, kind, why = one[1], one[2], one[3]
    local kinds = kinds_of_aside(kind)
    -- one that is left in its index is taken out by a lookup that meets it
    if kind ~= '' or n * #kinds <= MAX_SEARCHED then
      unindex(id, kinds)
    end
    if call('EXISTS', record_key(id)) == 1 then
      call('RENAME', record_key(id), bad_key(id))
    else
      call('SET', bad_key(id), '')  -- so that whatever else still names it is not reported again
    end
    call('PEXPIRE', bad_key(id), ASIDE_MS)
    call('PEXPIRE', spec_key(id), ASIDE_MS)
    call('PEXPIRE', logs_key(id), ASIDE_MS)
    call('LPUSH', ASIDE, id .. ' ' .. kind .. ': ' .. why)
    local size = #report
    report[size + 1], report[size + 2], report[size + 3] = id, kind, why
  end
  if #asides > 0 then
    call('LTRIM', ASIDE, 0, ASIDE_LIMIT - 1)
    call('INCRBY', ASIDE_COUNT, #asides)
  end
  return report
end
