-- An unreadable record is set aside: removed from every queue and index, kept for a week, counted and reported.
local to_set_aside, strays = {}, {}

-- Plan to set an instance aside; `kind` is "" if the kind is unknown. The calling script must call pass_slots_and_wake
-- later, so that the next instance gets the slot of the schedule.
local function set_aside(id, kind, reason)
  call('LLEN', ASIDE)
  to_set_aside[#to_set_aside + 1] = {id, kind, reason}
  if layout == FLOWS_LAYOUT then
    settle_later('e' .. id .. '0', 'k' .. id)
  end
  if gates and kind ~= '' then
    leave_gate(id, kind, true)
  elseif gates then
    leave_any_gate(id)
  end
  local schedule = call('HGET', SLOTS, id)
  if schedule then
    free_slot_later(schedule, id)
  end
end

-- Plan to count and report an entry of a queue or an index that is wrong. The instance itself is not affected. `what`: "l"
-- for what belongs to limits: `id` is its name, and `kind` is "limit", "rule" of a kind, or "key" of the namespace.
local function count_stray(id, kind, reason, what)
  strays[#strays + 1] = {id, kind, reason, what}
end

-- Return the kinds under which an instance can be indexed. For an unknown kind, return only the first kinds of the
-- namespace, so that the search stays short.
local function kinds_to_search(kind)
  known_kinds = {}
  return kind ~= '' and {kind} or some_kinds('0', 1000)
end

local function unindex(id, kinds)
  for _, kind in ipairs(kinds) do
    for _, state in ipairs(SINGLE) do
      call('ZREM', index_key(state, kind), id)
      call('ZREM', expiry_key(kind), id .. state, id .. state .. '+', id .. state .. '*', id .. state .. '+*')
    end
    if shared then
      call('SREM', kind_key('r', kind), id)
    end
  end
end

local function write_planned_aside()
  local ASIDE_LIMIT, ASIDE_MS, MAX_SEARCHED = 1000, 7 * 86400000, 5000
  local report = {}
  local function add_to_report(is_aside, one)
    local size = #report
    report[size + 1], report[size + 2], report[size + 3], report[size + 4] = is_aside, one[1], one[2], one[3]
  end
  for n, one in ipairs(to_set_aside) do
    local id, kind, reason = one[1], one[2], one[3]
    local kinds = kinds_to_search(kind)
    -- Beyond MAX_SEARCHED searches, an entry stays in an index until a lookup finds the entry and removes it.
    if kind ~= '' or n * #kinds <= MAX_SEARCHED then
      unindex(id, kinds)
    end
    if call('EXISTS', record_key(id)) == 1 then
      call('RENAME', record_key(id), bad_key(id))
    else
      -- The empty string marks the id as reported, so that other entries that name the instance are not reported again.
      call('SET', bad_key(id), '')
    end
    call('PEXPIRE', bad_key(id), ASIDE_MS)
    call('PEXPIRE', spec_key(id), ASIDE_MS)
    call('PEXPIRE', logs_key(id), ASIDE_MS)
    call('PEXPIRE', steps_key(id), ASIDE_MS)
    call('LPUSH', ASIDE, id .. ' ' .. kind .. ': ' .. reason)
    add_to_report('1', one)
  end
  for _, one in ipairs(strays) do
    add_to_report(one[4] or '', one)
  end
  if #to_set_aside > 0 then
    call('LTRIM', ASIDE, 0, ASIDE_LIMIT - 1)
  end
  if #report > 0 then
    count_damaged(#to_set_aside + #strays)
  end
  return report
end

-- Do what set_aside and count_stray have planned. Return a flat list with "1" for an instance that was set aside, "l" for
-- what belongs to limits, or "" for an entry, and id, kind and reason of each. See count_stray.
local function write_set_aside()
  return (to_set_aside[1] or strays[1]) and write_planned_aside() or {}
end
