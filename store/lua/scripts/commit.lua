#!lua flags=allow-oom
-- Apply outcomes of running instances, each only if (fence, incarnation) still own it.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, verb, request, default retention, most final instances per kind, most log lines,
--          most log bytes, number of outcomes;
--          per outcome: id, fence, what. `what` starts with the action: C complete, T terminate, O time out, X cancel,
--          R retry, Z snooze, H hand back, L release, P report; then come letters: s started, and one for each argument
--          that follows: r result, e error, p progress, d delay, n note, l number of log lines and each of them
-- Reply    {one letter per outcome: D done, L lost, C cancelled; what was set aside}
local inc, verb, request = ARGV[1], ARGV[2], ARGV[3]
local retention, max_final = tonumber(ARGV[4]), tonumber(ARGV[5])
local max_lines, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local owned = owned_key(inc)
local FINAL = {C = COMPLETED, T = TERMINATED, O = TIMED_OUT, X = CANCELLED}
local STARTED, RESULT, ERROR, PROGRESS, DELAY, NOTE, LOGS = byte('srepdnl', 1, 7)

local answered = call('HGET', requests_key(inc), verb)
if answered and sub(answered, 1, #request + 1) == request .. '\n' then
  return {sub(answered, #request + 2), {}}
end

local ids, keys, starts = {}, {}, {}
local cursor = 9
for n = 1, tonumber(ARGV[8]) do
  local id, what = ARGV[cursor], ARGV[cursor + 2]
  ids[n], keys[n], starts[n] = id, record_key(id), cursor
  cursor = cursor + 3
  for at = 2, #what do
    local letter = byte(what, at)
    if letter == LOGS then
      cursor = cursor + tonumber(ARGV[cursor])
    end
    if letter ~= STARTED then
      cursor = cursor + 1
    end
  end
end

-- What an outcome says, by letter.
local function said(start)
  local what, at_argument, fields = ARGV[start + 2], start + 3, {}
  for at = 2, #what do
    local letter = byte(what, at)
    if letter == STARTED then
      fields[STARTED] = true
    elseif letter == LOGS then
      local lines = {}
      for n = 1, tonumber(ARGV[at_argument]) do
        lines[n] = ARGV[at_argument + n]
      end
      fields[LOGS] = lines
      at_argument = at_argument + #lines + 1
    else
      fields[letter] = ARGV[at_argument]
      at_argument = at_argument + 1
    end
  end
  return sub(what, 1, 1), fields
end

local claims, raws = call('HMGET', owned, unpack(ids)), call('MGET', unpack(keys))
local alive = call('ZSCORE', LEASES, inc)
local name = call('HGET', node_key(inc), 'name') or sub(call('HGET', DEAD, inc) or '', 3)

-- Several outcomes of one instance see each other through these.
local owns, records, written, new_logs = {}, {}, {}, {}
for n, id in ipairs(ids) do
  owns[id] = claims[n]
end
local started = {}

local function report(id, claim, r, fields)
  if fields[STARTED] and not has_flag(claim, 's') then
    local fence, flags = claim_parts(claim)
    owns[id] = claim_entry(fence, flags .. 's')
    started[#started + 1] = id
  end
  if fields[LOGS] or fields[PROGRESS] then
    written[id] = r
  end
end

local function end_run(id, r, action, fields)
  local to = {state = FINAL[action] or SCHEDULED, due = r.due, node = name, note = fields[NOTE] or '', retention = retention}
  owns[id] = false
  written[id] = r
  if FINAL[action] then
    r.result, r.error = fields[RESULT], fields[ERROR]
    end_claim(inc, id, r, to)
    r.owner = inc
    return
  end
  if action ~= 'R' then
    r.attempts = r.attempts - 1
  end
  if action ~= 'H' then
    to.due = now + tonumber(fields[DELAY] or '0')
    r.error = fields[ERROR] or r.error
  end
  end_claim(inc, id, r, to)
end

-- What the processors of a run log after its end is kept, as long as nobody else had the instance since.
local function late_logs(id, raw, fence, action, fields)
  if action ~= 'P' or not fields[LOGS] or fields[PROGRESS] or fields[STARTED] then
    return 'L'
  end
  local r = records[id] or decode(raw)
  if not r or r.owner ~= inc or digits(r.fence) ~= fence or r.state < CANCELLED then
    return 'L'
  end
  records[id], written[id] = r, r
  new_logs[id] = new_logs[id] or {}
  for _, line in ipairs(fields[LOGS]) do
    table.insert(new_logs[id], line)
  end
  return 'D'
end

local function apply(n, id)
  local claim, fence = owns[id], ARGV[starts[n] + 1]
  local flags = ''
  if not claim then
    return late_logs(id, raws[n], fence, said(starts[n]))
  elseif claim ~= claim_entry(fence, '') then
    local owns_fence
    owns_fence, flags = claim_parts(claim)
    if owns_fence ~= fence then
      return 'L'
    end
  end
  local r = records[id]
  if r == nil then
    r = decode(raws[n]) or false
    records[id] = r
  end
  local action, fields = said(starts[n])
  if has_flag(flags, 'r') then
    if action ~= 'P' then
      owns[id] = false
      if r and r.releasing then
        end_claim(inc, id, r, {retention = retention})
        set(keys[n], encode(r))
      else
        end_claim(inc, id, r, nil)
      end
    end
    return 'C'
  end
  if not r or r.state ~= PROCESSING or r.owner ~= inc then
    owns[id] = false
    end_claim(inc, id, r, nil)
    if not r then
      set_aside(id, '', raws[n] and 'unreadable record' or 'claimed without a record')
    end
    return 'L'
  end
  if fields[LOGS] then
    new_logs[id] = new_logs[id] or {}
    for _, line in ipairs(fields[LOGS]) do
      table.insert(new_logs[id], line)
    end
  end
  r.progress = fields[PROGRESS] or r.progress
  if action == 'P' or action == 'L' then
    report(id, claim, r, fields)
  else
    end_run(id, r, action, fields)
  end
  return 'D'
end

local answers = {}
for n, id in ipairs(ids) do
  answers[n] = apply(n, id)
end
for _, id in ipairs(started) do
  if owns[id] then
    add_pair('HSET', owned, id, owns[id])
  end
end

local log_plans = {}
for id, lines in pairs(new_logs) do
  log_plans[#log_plans + 1] = append_logs(records[id], id, lines, max_lines, max_bytes)
end
for n, id in ipairs(ids) do
  local r = written[id]
  if r then
    written[id] = nil
    set(keys[n], encode(r))
    changed(id)
  end
end
after_claims(max_final)
local acks = table.concat(answers)
if find(acks, '[DC]') then
  add_pair('HSET', requests_key(inc), verb, request .. '\n' .. acks)
end

for _, plan in ipairs(log_plans) do
  write_logs(plan)
end
write_all()
if not alive then
  call('PEXPIRE', requests_key(inc), REQUESTS_MS)
end
bound_hints()
return {acks, put_aside()}
