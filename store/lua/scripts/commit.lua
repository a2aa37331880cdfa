#!lua flags=allow-oom
-- uses: record queue hints aside outcome
-- Apply outcomes of running instances, each only if (fence, incarnation) still own it.
--
-- KEYS[1]  the namespace's prefix
-- ARGV     incarnation, verb, request, default retention, most final instances per kind, most log lines,
--          most log bytes, number of outcomes;
--          per outcome: id, fence, what. `what` starts with the action: C complete, T terminate, O time out, X cancel,
--          R retry, Z snooze, H hand back, L release, P report; then a letter for each argument that follows:
--          r result, e error, p progress, d delay, n note, l number of log lines and each of them; s (no argument) started
-- Reply    {one letter per outcome: D done, L lost, C cancelled; what was set aside}
local inc, verb, request = ARGV[1], ARGV[2], ARGV[3]
local retention, max_final, max_lines, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local count = tonumber(ARGV[8])
local owned = owned_key(inc)
local FINAL = {C = COMPLETED, T = TERMINATED, O = TIMED_OUT, X = CANCELLED}

local answered = call('HGET', requests_key(inc), verb)
if answered and sub(answered, 1, #request + 1) == request .. '\n' then
  return {sub(answered, #request + 2), {}}
end

local outcomes, ids, keys = {}, {}, {}
local cursor = 9
for n = 1, count do
  local id, what = ARGV[cursor], ARGV[cursor + 2]
  local o = {id = id, fence = ARGV[cursor + 1], action = sub(what, 1, 1)}
  cursor = cursor + 3
  for at = 2, #what do
    local field = byte(what, at)
    if field == 115 then
      o.started = true
    elseif field == 108 then
      o.logs = {}
      for line = 1, tonumber(ARGV[cursor]) do
        o.logs[line] = ARGV[cursor + line]
      end
      cursor = cursor + #o.logs + 1
    else
      o[field] = ARGV[cursor]
      cursor = cursor + 1
    end
  end
  outcomes[n], ids[n], keys[n] = o, id, record_key(id)
end
local RESULT, ERROR, PROGRESS, DELAY, NOTE = 114, 101, 112, 100, 110

local claims, raws = call('HMGET', owned, unpack(ids)), call('MGET', unpack(keys))
local name = call('HGET', node_key(inc), 'name')
if not name then
  name = sub(call('HGET', DEAD, inc) or '', 3)
end
call('LLEN', ASIDE)
call('EXISTS', ASIDE_COUNT)

-- Several outcomes of one instance see each other through these.
local records, owns, changed_records, new_logs = {}, {}, {}, {}
for n, id in ipairs(ids) do
  owns[id] = claims[n]
end

local finals, finals_by_kind, back, started = {}, {}, {}, {}
local earliest = nil

local function let_go(id)
  add(later.hdel, owned, id)
  owns[id] = false
end

local function apply(n, o)
  local id, claim = o.id, owns[o.id]
  if not claim then
    return 'L'
  end
  local fence, flags = string.match(claim, '^(%d+)(%a*)$')
  if fence ~= o.fence then
    return 'L'
  end
  local r = records[id]
  if r == nil then
    r = decode(raws[n]) or false
    records[id] = r
  end
  local releasing = string.find(flags, 'r', 1, true)
  if releasing then
    if o.action ~= 'P' then
      let_go(id)
      if r and r.releasing then
        release(r, id, retention)
        set(record_key(id), encode(r))
      end
    end
    return 'C'
  end
  if not r or r.state ~= PROCESSING or r.owner ~= inc then
    let_go(id)
    if not r then
      set_aside(id, '', raws[n] and 'unreadable record' or 'claimed without a record')
    end
    return 'L'
  end
  if o.logs then
    new_logs[id] = new_logs[id] or {}
    for _, line in ipairs(o.logs) do
      table.insert(new_logs[id], line)
    end
  end
  if o[PROGRESS] then
    r.progress = o[PROGRESS]
  end
  local action = o.action
  if action == 'P' or action == 'L' then
    if o.started and not string.find(flags, 's', 1, true) then
      owns[id] = claim .. 's'
      started[#started + 1] = id
    end
    if o.logs or o[PROGRESS] then
      changed_records[id] = r
    end
    return 'D'
  end
  local note = o[NOTE] or ''
  let_go(id)
  changed_records[id] = r
  if FINAL[action] then
    r.result, r.error = o[RESULT], o[ERROR]
    finish(r, id, FINAL[action], name, note, retention)
    free_key(r, id)
    finals[#finals + 1] = id
    finals_by_kind[r.kind] = (finals_by_kind[r.kind] or 0) + 1
    return 'D'
  end
  local due = r.due
  if action ~= 'R' then
    r.attempts = r.attempts - 1
  end
  if action ~= 'H' then
    due = now + tonumber(o[DELAY] or '0')
    r.error = o[ERROR] or r.error
  end
  put_back(r, id, due, name, note)
  if due <= now then
    back[r.kind] = (back[r.kind] or 0) + 1
  elseif not earliest or due < earliest.due then
    earliest = r
  end
  return 'D'
end

local answers = {}
for n, o in ipairs(outcomes) do
  answers[n] = apply(n, o)
end

for _, id in ipairs(started) do
  if owns[id] then
    add_pair(later.hset, owned, id, owns[id])
  end
end
local log_plans = {}
for id, lines in pairs(new_logs) do
  log_plans[#log_plans + 1] = append_logs(records[id], id, lines, max_lines, max_bytes)
end
for id, r in pairs(changed_records) do
  set(record_key(id), encode(r))
  changed(id)
end
ended(finals)
for kind, added in pairs(finals_by_kind) do
  remove_expired(kind, added, 2 * added, max_final)
end
for kind, wanted in pairs(back) do
  wake(kind, wanted)
end
if earliest and idle_left > 0 then
  local head = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  if not head[2] or earliest.due < tonumber(head[2]) then
    wake(earliest.kind, 1)
  end
end
local acks = table.concat(answers)
if string.find(acks, '[DC]') then
  add_pair(later.hset, requests_key(inc), verb, request .. '\n' .. acks)
end

for _, plan in ipairs(log_plans) do
  write_logs(plan)
end
write_all()
send_hints()
return {acks, put_aside()}
