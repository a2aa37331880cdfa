-- The stored state of one instance, without its spec: one string, which one unpack reads and which is written as a
-- whole.
-- Numbers come first, followed by texts with their sizes. The last texts are present only if a flag is set for one of
-- them.
-- The flag HAS_TAIL says that a tail follows: entries, each a tag (1 byte), a length (2 bytes) and the bytes. If the first
-- one has the tag THREAD, it is the thread, see thread.lua. The others are of later versions of peerjob; every transition
-- keeps them unchanged. codec.py reads the same format.
local FORMAT = 1
local RELEASING, HAS_KEY, HAS_RESULT, HAS_ERROR, HAS_PROGRESS, HAS_TAGS, HAS_SLOT = 1, 2, 4, 8, 16, 32, 64
local HAS_TAIL, TAIL_LIMIT = 128, 1536
local THREAD, THREAD_SIZE, SUM_SIZE = 1, 36, 4
-- The tags that differ from THREAD in one bit. No later version uses them, so a thread with a damaged tag is known.
local NEAR_THREAD = '\0\3\5\9\17\33\65\129'
local THREAD_ENTRY = '>BI2BI4I2I2I4ddBc0I2c0'
local RECORD = '>BBBI2i4dddI4I4I4I4dI4I4I4c0I4c0I4c0'
local OPTIONS = '>I4c0I4c0I4c0I4c0I4c0'
local RECORD_WITH_ENTRY = RECORD .. 'c0'
local LAST = '>I4c0'
local ENTRY = '>BdI4I4c0I4c0'
local KEY_AND_TAGS, RESULT_AND_ERROR = '>I4I4c0', '>I4c0I4c0'
local TWO_ENTRIES = '>BdI4I4c0I4c0BdI4I4c0I4c0'
-- The fence of an instance that was never claimed.
local NO_FENCE = '\0\0\0\0\0\0\0\0'
local STATES = {[SCHEDULED] = true, [PROCESSING] = true, [CANCELLED] = true, [TIMED_OUT] = true,
  [COMPLETED] = true, [TERMINATED] = true}

-- A number that becomes a part of a text costs a conversion each time.
local STATE_TEXT = {[SCHEDULED] = '2', [PROCESSING] = '4', [CANCELLED] = '8', [TIMED_OUT] = '16', [COMPLETED] = '32',
  [TERMINATED] = '64'}

local function present(flags, bit)
  return flags % (2 * bit) >= bit
end

-- The counts of entries of the histories that were read: most instances of a batch have the same history.
local counted = {}

-- Return the number of entries of a history, or nil; a cut entry is an error.
local function entries_of(history)
  local count, at = 0, 1
  while at <= #history do
    local state, time, _, node, note, rest = unpack_text(ENTRY, history, at)
    if not (STATES[state] or state == CREATED) or not is_time(time) or not is_text(node) or not is_text(note) then
      return nil
    end
    count, at = count + 1, rest
  end
  return count
end

-- Return whether a history has so many entries, and each of them can be read.
local function is_history(history, entries)
  local count = counted[history]
  if not count then
    local whole, found = pcall(entries_of, history)
    count = whole and found or 0
    counted[history] = count
  end
  return count == entries and count > 0
end

local function are_texts(texts)
  local from = 1
  while from <= #texts do
    local whole, text, rest = pcall(unpack_text, '>I4c0', texts, from)
    if not whole or not is_text(text) then
      return false
    end
    from = rest
  end
  return true
end

-- Return whether the numbers of a record are in their ranges. A retention is -1 if the instance has none of its own.
local function are_numbers(due, fence, at, retention)
  return is_time(due) and is_time(fence) and is_time(at) and retention >= -1 and retention < 2 ^ 63
end

-- The checksums of threads: most instances of a batch have equal ones.
local sums = {}

local function sum_of(text)
  sums[text] = sums[text] or sub(redis.sha1hex(text), 1, SUM_SIZE)
  return sums[text]
end

local function decode_options(record, raw, flags, from)
  local ok, key, tags, result, error_, progress, stop = pcall(unpack_text, OPTIONS, raw, from)
  record.releasing = present(flags, RELEASING)
  record.key = present(flags, HAS_KEY) and key or nil
  record.tags = tags
  record.result = present(flags, HAS_RESULT) and result or nil
  record.error = present(flags, HAS_ERROR) and error_ or nil
  record.progress = present(flags, HAS_PROGRESS) and progress or nil
  if ok and present(flags, HAS_SLOT) then
    ok, record.slot, stop = pcall(unpack_text, LAST, raw, stop)
  end
  if ok and present(flags, HAS_TAIL) then
    ok, record.tail, stop = pcall(unpack_text, LAST, raw, stop)
    ok = ok and #record.tail <= TAIL_LIMIT
    local tag = ok and byte(record.tail)
    if tag == THREAD then
      local thread, size = {}, nil
      record.thread = thread
      ok, thread.tag, size, thread.flags, thread.needs, thread.steps, thread.signals, thread.bytes, thread.due, thread.fence,
        thread.parent, thread.awaits, thread.stop = pcall(unpack_text, THREAD_ENTRY, record.tail)
      local from = ok and thread.stop
      thread.stop = from and from + SUM_SIZE
      ok = from and thread.stop == size + 4
        and sub(record.tail, from, thread.stop - 1) == sum_of(sub(record.tail, 1, from - 1))
        and is_time(thread.due) and is_time(thread.fence) and is_text(thread.parent) and is_text(thread.awaits)
    elseif tag and find(NEAR_THREAD, sub(record.tail, 1, 1), 1, true) then
      ok = false
    end
  end
  ok = ok and is_text(key) and are_texts(tags) and is_text(record.slot)
  return ok and stop
end

-- Decode a record; return nil unless the string is a complete record in the format of RECORD, and each value in it is
-- one that codec.py can read.
local function decode(raw)
  if not raw then
    return nil
  end
  local ok, record_format, state, flags, entries, priority, due, fence, at, attempts, crashes, losses, max_crashes,
    retention, log_total, log_bytes, kind, owner, history, stop = pcall(unpack_text, RECORD, raw)
  if not ok or record_format ~= FORMAT or not STATES[state] or not are_numbers(due, fence, at, retention)
    or not is_history(history, entries) or not is_text(kind) or not is_text(owner) then
    return nil
  end
  local record = {
    state = state, entries = entries, priority = priority, due = due, fence = fence, at = at, attempts = attempts,
    crashes = crashes, losses = losses, max_crashes = max_crashes, retention = retention, log_total = log_total,
    log_bytes = log_bytes, kind = kind, owner = owner, history = history, tags = '', key = nil, result = nil,
    error = nil, progress = nil, releasing = nil, slot = '',
    tail = nil, thread = nil,
  }
  if flags ~= 0 then
    stop = decode_options(record, raw, flags, stop)
  end
  return stop == #raw + 1 and record or nil
end

local function encode(record)
  local flags = (record.releasing and RELEASING or 0) + (record.key and HAS_KEY or 0) + (record.result and HAS_RESULT or 0)
    + (record.error and HAS_ERROR or 0) + (record.progress and HAS_PROGRESS or 0) + (record.tags ~= '' and HAS_TAGS or 0)
    + (record.slot ~= '' and HAS_SLOT or 0) + (record.tail and HAS_TAIL or 0)
  local kind, owner, history = record.kind, record.owner, record.history
  local text = pack(RECORD, FORMAT, record.state, flags, record.entries, record.priority, record.due, record.fence,
    record.at, record.attempts, record.crashes, record.losses, record.max_crashes, record.retention, record.log_total,
    record.log_bytes, #kind, kind, #owner, owner, #history, history)
  if flags == 0 then
    return text
  end
  local key, tags, result = record.key or '', record.tags, record.result or ''
  local error_, progress = record.error or '', record.progress or ''
  text = text .. pack(OPTIONS, #key, key, #tags, tags, #result, result, #error_, error_, #progress, progress)
  if record.slot ~= '' then
    text = text .. pack(LAST, #record.slot, record.slot)
  end
  return record.tail and text .. pack(LAST, #record.tail, record.tail) or text
end

-- Return the record of a new instance; its history has Created and Scheduled with the same time. `slot` is the schedule
-- whose slot the instance takes or waits for, or nil.
local function new_record(kind, priority, due, key, tags, retention, max_crashes, node, slot, attempts, crashes, losses)
  local past = pack(TWO_ENTRIES, CREATED, now, 1, #node, node, 0, '', SCHEDULED, now, 1, #node, node, 0, '')
  local flags = (key and HAS_KEY or 0) + (tags ~= '' and HAS_TAGS or 0) + (slot and HAS_SLOT or 0)
  local text = pack(RECORD, FORMAT, SCHEDULED, flags, 2, priority, due,
    0, now, attempts or 0, crashes or 0, losses or 0, max_crashes, retention, 0, 0, #kind, kind, 0, '', #past, past)
  if flags == 0 then
    return text
  end
  text = text .. pack(OPTIONS, #(key or ''), key or '', #tags, tags, 0, '', 0, '', 0, '')
  return slot and text .. pack(LAST, #slot, slot) or text
end

local function entry(state, at, node, note, count)
  return pack(ENTRY, state, at, count or 1, #node, node, #note, note)
end

-- Join the two oldest history entries into one entry that counts both. A history above MAX_HISTORY entries is joined in
-- this way.
local function folded(history)
  local _, _, first, _, _, second = unpack_text(ENTRY, history)
  local state, at, count, node, note, rest = unpack_text(ENTRY, history, second)
  return entry(state, at, node, note, first + count) .. sub(history, rest)
end

-- The last entry is kept: most instances of a batch get the same entry at the same time.
local latest = {}

-- Return the history entry of a transition, and its time. Times in a history never go back, even if the clock of the
-- server does.
local function latest_entry(last_at, state, node, note)
  local at = max(last_at, now)
  if latest.state ~= state or latest.at ~= at or latest.node ~= node or latest.note ~= note then
    latest = {state = state, at = at, node = node, note = note, text = entry(state, at, node, note)}
  end
  return latest.text, at
end

-- Append a transition to the history.
local function add_transition(record, state, node, note)
  local text, at = latest_entry(record.at, state, node, note)
  if record.entries > MAX_HISTORY then
    local whole, history = pcall(folded, record.history)
    if whole then
      record.history = history
      record.entries = record.entries - 1
    end
  end
  record.history = record.history .. text
  record.entries = record.entries + 1
  record.state, record.at = state, at
end

local function is_suspect(record)
  return record.crashes + record.losses >= SUSPECT_AFTER
end

-- Return the creation time, or a later time if old history entries were joined. A later time only keeps the id of a
-- removed instance for longer.
local function created_at(record)
  local whole, _, at = pcall(unpack_text, '>Bd', record.history)
  return whole and at or now
end
