-- The stored state of one instance: one string, read by one unpack and written whole, without its arguments.
-- Numbers first, then strings with their lengths; packing.py reads the same format.
local LAYOUT = 1
local RELEASING, HAS_KEY, HAS_RESULT, HAS_ERROR, HAS_PROGRESS = 1, 2, 4, 8, 16
local RECORD = '>BBBI2i4dddI4I4I4I4dI4I4' .. 'I4c0I4c0I4c0I4c0I4c0I4c0I4c0I4c0'
local ENTRY = '>BdI4I4c0I4c0'
local STATES = {[SCHEDULED] = true, [PROCESSING] = true, [CANCELLED] = true, [TIMED_OUT] = true,
  [COMPLETED] = true, [TERMINATED] = true}

local function present(flags, bit)
  return flags % (2 * bit) >= bit
end

-- nil for anything that is not a whole record of a layout that we know.
local function decode(raw)
  if not raw then
    return nil
  end
  local ok, layout, state, flags, entries, priority, due, fence, at, attempts, crashes, losses, max_crashes,
    retention, log_total, log_bytes, kind, key, tags, owner, history, result, error_, progress, stop =
    pcall(struct.unpack, RECORD, raw)
  if not ok or layout ~= LAYOUT or stop ~= #raw + 1 or not STATES[state] then
    return nil
  end
  return {
    state = state, entries = entries, priority = priority, due = due, fence = fence, at = at,
    attempts = attempts, crashes = crashes, losses = losses, max_crashes = max_crashes, retention = retention,
    log_total = log_total, log_bytes = log_bytes, kind = kind, tags = tags, owner = owner, history = history,
    releasing = present(flags, RELEASING),
    key = present(flags, HAS_KEY) and key or nil,
    result = present(flags, HAS_RESULT) and result or nil,
    error = present(flags, HAS_ERROR) and error_ or nil,
    progress = present(flags, HAS_PROGRESS) and progress or nil,
  }
end

local function encode(r)
  local flags = (r.releasing and RELEASING or 0) + (r.key and HAS_KEY or 0) + (r.result and HAS_RESULT or 0)
    + (r.error and HAS_ERROR or 0) + (r.progress and HAS_PROGRESS or 0)
  local key, result, error_, progress = r.key or '', r.result or '', r.error or '', r.progress or ''
  return struct.pack(RECORD, LAYOUT, r.state, flags, r.entries, r.priority, r.due, r.fence, r.at, r.attempts,
    r.crashes, r.losses, r.max_crashes, r.retention, r.log_total, r.log_bytes, #r.kind, r.kind, #key, key,
    #r.tags, r.tags, #r.owner, r.owner, #r.history, r.history, #result, result, #error_, error_,
    #progress, progress)
end

local function entry(state, at, node, note, count)
  return struct.pack(ENTRY, state, at, count or 1, #node, node, #note, note)
end

-- The instances of a batch mostly get the same entry at the same time.
local latest = {}

-- Append a transition. Times never go back; past HISTORY_LIMIT the two oldest entries become one that counts both.
local function become(r, state, node, note)
  local at = max(r.at, now)
  local memo = latest
  if memo.state ~= state or memo.at ~= at or memo.node ~= node or memo.note ~= note then
    memo = {state = state, at = at, node = node, note = note, text = entry(state, at, node, note)}
    latest = memo
  end
  local history = r.history
  if r.entries > HISTORY_LIMIT then
    local _, _, first, _, _, second = struct.unpack(ENTRY, history)
    local next_state, next_at, next_count, next_node, next_note, rest = struct.unpack(ENTRY, history, second)
    history = entry(next_state, next_at, next_node, next_note, first + next_count) .. sub(history, rest)
    r.entries = r.entries - 1
  end
  r.history = history .. memo.text
  r.entries = r.entries + 1
  r.state, r.at = state, at
end

local function is_suspect(r)
  return r.crashes + r.losses >= SUSPECT_AFTER
end

-- Call f for each tag.
local function each_tag(tags, f)
  local from, tag = 1, nil
  while from <= #tags do
    tag, from = struct.unpack('>I4c0', tags, from)
    f(tag)
  end
end
