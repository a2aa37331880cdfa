-- The stored state of one instance: one string, read by one unpack and written whole, without its arguments.
-- Numbers first, then texts with their sizes; the last texts only where a flag tells that one of them is there.
-- The last flag says that a tail follows: entries of later releases, each a tag (1 byte), a length (2 bytes) and the
-- bytes. This release does not look into a tail; every transition keeps it word for word. codec.py reads the same format.
local FORMAT = 1
local RELEASING, HAS_KEY, HAS_RESULT, HAS_ERROR, HAS_PROGRESS, HAS_TAGS, HAS_SLOT = 1, 2, 4, 8, 16, 32, 64
local HAS_TAIL, TAIL_LIMIT = 128, 512
local RECORD = '>BBBI2i4dddI4I4I4I4dI4I4I4c0I4c0I4c0'
local OPTIONS = '>I4c0I4c0I4c0I4c0I4c0'
local LAST = '>I4c0'
local ENTRY = '>BdI4I4c0I4c0'
local TWO_ENTRIES = '>BdI4I4c0I4c0BdI4I4c0I4c0'
local STATES = {[SCHEDULED] = true, [PROCESSING] = true, [CANCELLED] = true, [TIMED_OUT] = true,
  [COMPLETED] = true, [TERMINATED] = true}

local function present(flags, bit)
  return flags % (2 * bit) >= bit
end

local function decode_options(r, raw, flags, from)
  local ok, key, tags, result, error_, progress, stop = pcall(unpack_text, OPTIONS, raw, from)
  r.releasing = present(flags, RELEASING)
  r.key = present(flags, HAS_KEY) and key or nil
  r.tags = tags
  r.result = present(flags, HAS_RESULT) and result or nil
  r.error = present(flags, HAS_ERROR) and error_ or nil
  r.progress = present(flags, HAS_PROGRESS) and progress or nil
  if ok and present(flags, HAS_SLOT) then
    ok, r.slot, stop = pcall(unpack_text, LAST, raw, stop)
  end
  if ok and present(flags, HAS_TAIL) then
    ok, r.tail, stop = pcall(unpack_text, LAST, raw, stop)
    ok = ok and #r.tail <= TAIL_LIMIT
  end
  return ok and stop
end

local function is_time(us)
  return us >= 0 and us <= 2 ^ 53  -- neither is true of a NaN
end

-- nil for anything that is not a whole record of this format.
local function decode(raw)
  if not raw then
    return nil
  end
  local ok, record_format, state, flags, entries, priority, due, fence, at, attempts, crashes, losses, max_crashes,
    retention, log_total, log_bytes, kind, owner, history, stop = pcall(unpack_text, RECORD, raw)
  if not ok or record_format ~= FORMAT or not STATES[state] or not is_time(due) or not is_time(at) then
    return nil
  end
  local r = {
    state = state, entries = entries, priority = priority, due = due, fence = fence, at = at, attempts = attempts,
    crashes = crashes, losses = losses, max_crashes = max_crashes, retention = retention, log_total = log_total,
    log_bytes = log_bytes, kind = kind, owner = owner, history = history, tags = '', key = nil, result = nil,
    error = nil, progress = nil, releasing = nil, slot = '',
    tail = nil,
  }
  if flags ~= 0 then
    stop = decode_options(r, raw, flags, stop)
  end
  return stop == #raw + 1 and r or nil
end

local function encode(r)
  local flags = (r.releasing and RELEASING or 0) + (r.key and HAS_KEY or 0) + (r.result and HAS_RESULT or 0)
    + (r.error and HAS_ERROR or 0) + (r.progress and HAS_PROGRESS or 0) + (r.tags ~= '' and HAS_TAGS or 0)
    + (r.slot ~= '' and HAS_SLOT or 0) + (r.tail and HAS_TAIL or 0)
  local kind, owner, history = r.kind, r.owner, r.history
  local text = pack(RECORD, FORMAT, r.state, flags, r.entries, r.priority, r.due, r.fence, r.at, r.attempts,
    r.crashes, r.losses, r.max_crashes, r.retention, r.log_total, r.log_bytes, #kind, kind, #owner, owner,
    #history, history)
  if flags == 0 then
    return text
  end
  local key, tags, result, error_, progress = r.key or '', r.tags, r.result or '', r.error or '', r.progress or ''
  text = text .. pack(OPTIONS, #key, key, #tags, tags, #result, result, #error_, error_, #progress, progress)
  if r.slot ~= '' then
    text = text .. pack(LAST, #r.slot, r.slot)
  end
  return r.tail and text .. pack(LAST, #r.tail, r.tail) or text
end

-- A new instance, Created and Scheduled at once; `slot` is nil without one.
local function newborn(kind, priority, due, key, tags, retention, max_crashes, node, slot)
  local past = pack(TWO_ENTRIES, CREATED, now, 1, #node, node, 0, '', SCHEDULED, now, 1, #node, node, 0, '')
  local flags = (key and HAS_KEY or 0) + (tags ~= '' and HAS_TAGS or 0) + (slot and HAS_SLOT or 0)
  local text = pack(RECORD, FORMAT, SCHEDULED, flags, 2, priority, due,
    0, now, 0, 0, 0, max_crashes, retention, 0, 0, #kind, kind, 0, '', #past, past)
  if flags == 0 then
    return text
  end
  text = text .. pack(OPTIONS, #(key or ''), key or '', #tags, tags, 0, '', 0, '', 0, '')
  return slot and text .. pack(LAST, #slot, slot) or text
end

local function entry(state, at, node, note, count)
  return pack(ENTRY, state, at, count or 1, #node, node, #note, note)
end

-- Past HISTORY_LIMIT the two oldest entries become one that counts both.
local function folded(history)
  local _, _, first, _, _, second = unpack_text(ENTRY, history)
  local state, at, count, node, note, rest = unpack_text(ENTRY, history, second)
  return entry(state, at, node, note, first + count) .. sub(history, rest)
end

-- The instances of a batch mostly get the same entry at the same time.
local latest = {}

-- Append a transition; times never go back.
local function become(r, state, node, note)
  local at = max(r.at, now)
  if latest.state ~= state or latest.at ~= at or latest.node ~= node or latest.note ~= note then
    latest = {state = state, at = at, node = node, note = note, text = entry(state, at, node, note)}
  end
  if r.entries > HISTORY_LIMIT then
    local whole, history = pcall(folded, r.history)
    if whole then
      r.history = history
      r.entries = r.entries - 1
    end
  end
  r.history = r.history .. latest.text
  r.entries = r.entries + 1
  r.state, r.at = state, at
end

local function is_suspect(r)
  return r.crashes + r.losses >= SUSPECT_AFTER
end
