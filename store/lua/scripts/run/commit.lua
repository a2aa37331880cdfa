#!lua flags=allow-oom
-- Apply outcomes of running instances. An outcome is lost unless its fence is that of a claim of the incarnation.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, command ("turn-commit": a claim follows), request, default retention, limit of final instances
--          per kind, limit of log lines, limit of log bytes, number of outcomes, the outcomes as lib/read_outcome.lua
--          reads them; "alone" if no claim follows although the command says it
-- Reply    {a letter per outcome: D done, L lost, C cancelled; set-aside instances}; or {"linked"}: nothing was done,
--          since an instance has a thread, see thread.lua; use commit_linked
--
-- The script commit_linked has the same code and also lib/thread_outcome.lua, which has its further letters. Its reply
-- can be {"layout"}: nothing was done, since the namespace has not the layout of steps and children.
local incarnation, command, request = ARGV[1], ARGV[2], ARGV[3]
local retention, max_final = tonumber(ARGV[4]), tonumber(ARGV[5])
local owned = owned_key(incarnation)

local answered = call('HGET', requests_key(incarnation), command)
if answered and sub(answered, 1, #request + 1) == request .. '\n'
  and find(answered, '^[DLCT]+$', #request + 2) and #answered == #request + 1 + tonumber(ARGV[8]) then
  return {sub(answered, #request + 2), {}}
end

local ids, keys, fences, actions, arguments = {}, {}, {}, {}, {}
local position, owns = 9, threads and threads.joins.claims or {}
for n = 1, tonumber(ARGV[8]) do
  ids[n], fences[n] = ARGV[position], ARGV[position + 1]
  keys[n], owns[ids[n]] = record_key(ids[n]), threads and false
  position, actions[n], arguments[n] = read_outcome(position)
end

if shared and command == 'turn-commit' and not ARGV[position] then
  shared.followed_by_claim = requests_key(incarnation)
end
local raws, alive = call('MGET', unpack(keys)), call('ZSCORE', LEASES, incarnation)
local name = text_or(call('HGET', node_key(incarnation), 'name') or sub(call('HGET', DEAD, incarnation) or '', 3), incarnation)

-- 1. End instances with usual records, up to the first outcome of another kind. `ended_records` are the new records.
-- Such a record shows its claim, so the entry of the claim is not read. A key of a wrong type must cause an error before
-- the first write.
call('HLEN', owned)
local ended_records, answers = {}, {}
for n, id in ipairs(ids) do
  local fields, to_state = arguments[n], FINAL[actions[n]]
  if ended_records[id] or not to_state or fields[LOGS] or fields[PROGRESS] or fields.thread then
    break
  end
  ended_records[id] = end_usual(owned, incarnation, id, keys[n], raws[n], fences[n], to_state, name, fields[NOTE] or '',
    fields[RESULT], fields[ERROR], retention)
  if not ended_records[id] then
    break
  end
  answers[n] = 'D'
end

-- 2. If there is no other, and nothing to remove or to pass on, all is done.
local is_over = answers[1] and #answers == #ids and not threads
for kind, added in pairs(is_over and ended_kinds or {}) do
  is_over = is_over and not find_expired(kind, added, 2 * added, max_final)
end

local function answer_ends()
  hint_end(ended_ids)
  add_pair('HSET', requests_key(incarnation), command, request .. '\n' .. table.concat(answers))
  write_all()
  if not alive then
    call('PEXPIRE', requests_key(incarnation), REQUESTS_MS)
  end
  return {table.concat(answers), {}}
end
-- A claim that follows wakes nodes, so limits change nothing unless an end frees a key or makes room in a full limit.
if is_over and (not shared or shared.followed_by_claim and not (shared.makes_room or gates.is_busy)) then
  return answer_ends()
end

-- The rest needs further definitions.
-- 3. Let others pass, and tell the claim that follows what it must wake nodes for.
is_over = is_over and shared.followed_by_claim
if is_over then
  if gates.is_busy then
    pass_gates()
  end
  offer_ended()
  return answer_ends()
end

-- The rest needs further definitions.
-- 4. Apply the other outcomes. The tables hold the effects of outcomes so far, so that a later outcome of the same
-- instance sees the earlier ones.
local records, written, new_logs, started, is_linked = {}, {}, {}, {}, false
-- Most instances of a batch have the same fence.
local latest_fence, latest_claim = nil, nil
for n, claim in ipairs(call('HMGET', owned, unpack(ids))) do
  owns[ids[n]] = not ended_records[ids[n]] and claim
end

local function report(id, claim, record, fields)
  if fields[STARTED] and not has_flag(claim, 's') then
    local fence, flags = claim_parts(claim)
    owns[id] = claim_entry(fence, flags .. 's')
    started[#started + 1] = id
  end
  if fields[LOGS] or fields[PROGRESS] or fields.thread then
    written[id] = record
  end
end

local function end_run(id, record, action, fields)
  local to = {state = FINAL[action] or SCHEDULED, due = record.due, node = name, note = fields[NOTE] or '',
    retention = retention}
  owns[id] = false
  written[id] = record
  if FINAL[action] then
    record.result, record.error = fields[RESULT], fields[ERROR]
    end_claim(incarnation, id, record, to)
    record.owner = incarnation
    return
  end
  if action ~= 'R' then
    record.attempts = record.attempts - 1
  end
  if action == 'S' then
    threads.suspend(record, id, fields.thread, to)
  elseif action ~= 'H' then
    to.due = min(LATEST, now + tonumber(fields[DELAY] or '0'))
  end
  record.error = action ~= 'H' and fields[ERROR] or record.error
  end_claim(incarnation, id, record, to)
end

local function apply(n, id)
  local claim, fence, action, fields, flags = owns[id], fences[n], actions[n], arguments[n], ''
  if fence ~= latest_fence then
    latest_fence, latest_claim = fence, claim_entry(fence, '')
  end
  if claim ~= latest_claim then
    local owns_fence
    owns_fence, flags = claim_parts(claim or '')
    if owns_fence ~= fence then
      -- The entry is missing, damaged, or of another claim. The record decides.
      records[id] = records[id] or decode(ended_records[id] or raws[n])
      owns_fence, flags = claim_of(records[id], incarnation)
      if owns_fence ~= fence or not claim and flags == 'r' then
        if claim or not may_log_late(records[id], incarnation, fence, action, fields) then
          return 'L'
        end
        written[id] = records[id]
        keep_lines(new_logs, id, fields[LOGS])
        return 'D'
      end
      claim = claim_entry(fence, flags)
    end
  end
  local record = records[id]
  if record == nil and flags == '' and FINAL[action] and not (fields[LOGS] or fields[PROGRESS] or fields.thread) then
    ended_records[id] = end_usual(owned, incarnation, id, keys[n], raws[n], fence, FINAL[action], name, fields[NOTE] or '',
      fields[RESULT], fields[ERROR], retention)
    if ended_records[id] then
      owns[id] = false
      return 'D'
    end
  end
  if record == nil then
    record = decode(raws[n]) or false
    records[id] = record
  end
  if record and record.thread and not threads then
    is_linked = true
    return 'L'
  end
  if record and record.state ~= PROCESSING and (has_flag(flags, 'r') or record.releasing) then
    if action ~= 'P' then
      owns[id] = false
      if record.releasing then
        end_claim(incarnation, id, record, {retention = retention})
        put_string(keys[n], encode(record))
      else
        end_claim(incarnation, id, record, nil)
      end
    end
    return 'C'
  end
  if not record or not holds(record, incarnation, fence) then
    owns[id] = false
    end_claim(incarnation, id, record, nil)
    if not record and (raws[n] or call('EXISTS', bad_key(id)) == 0) then
      set_aside(id, '', raws[n] and 'unreadable record' or 'claimed without a record')
    end
    return 'L'
  end
  if fields.thread and not threads.keep(record, id, fields.thread) then
    return 'T'
  end
  record.owner = incarnation
  if fields[LOGS] then
    keep_lines(new_logs, id, fields[LOGS])
  end
  record.progress = fields[PROGRESS] or record.progress
  if action == 'P' or action == 'L' then
    report(id, claim, record, fields)
  else
    end_run(id, record, action, fields)
  end
  return 'D'
end

for n = #answers + 1, #ids do
  answers[n] = apply(n, ids[n])
end
if is_linked then
  return {'linked'}
end
for _, id in ipairs(started) do
  if owns[id] then
    add_pair('HSET', owned, id, owns[id])
  end
end

local log_plans = {}
for id, lines in pairs(new_logs) do
  log_plans[#log_plans + 1] = append_logs(records[id], id, lines, tonumber(ARGV[6]), tonumber(ARGV[7]))
end
for n, id in ipairs(ids) do
  local record = written[id]
  if record then
    written[id] = nil
    put_string(keys[n], encode(record))
    hint_change(id)
  end
end
after_claims(max_final)
local acks = table.concat(answers)
if find(acks, '[DC]') then
  add_pair('HSET', requests_key(incarnation), command, request .. '\n' .. acks)
end

for _, plan in ipairs(log_plans) do
  write_logs(plan)
end
write_all()
if not alive then
  call('PEXPIRE', requests_key(incarnation), REQUESTS_MS)
end
if threads then
  threads.settle(MAX_SETTLED, retention, false, incarnation)
end
return {acks, write_set_aside()}
