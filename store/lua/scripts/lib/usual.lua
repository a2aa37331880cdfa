-- The change of usual records. Most records have no flag, and fewer entries in their history than the limit. A record
-- does not name its instance, so instances that one call added or one claim took have equal records. A claim and an end
-- change each of these records once, and keep the result for equal ones: the old record -> the change.
local claims_of, ends_of = {}, {}

-- Records of instances that were added at different times can be equal but for that time, which stands in a record several
-- times. `models`: by the size of a record, the first one that was read, and its change. The next record of this size cuts
-- both at each occurrence of the time.
local models = {}

local function cut(text, time)
  local parts, from, at = {}, 1, find(text, time, 1, true)
  while at do
    parts[#parts + 1], from = sub(text, from, at - 1), at + #time
    at = find(text, time, from, true)
  end
  parts[#parts + 1] = sub(text, from)
  return parts
end

-- Return the change of the model of a record, and the new record and the due time, which differ from those of the model; nil
-- if the record differs from its model in more than that time. `count`: the parts of a record if the time stands where an
-- instance has it that was due at once, and is claimed for the first time or ends after that claim.
local function as_model(raw, count)
  local model = raw and models[#raw]
  if not model then
    return nil
  end
  local time = sub(raw, 10, 17)
  if not model.parts then
    local old_time = sub(model.raw, 10, 17)
    model.parts, model.new_parts = cut(model.raw, old_time), cut(model.change.text, old_time)
    model.fits = #model.parts == count and #model.new_parts == 4 and unpack_text('>d', old_time) <= now
  end
  if model.fits and table.concat(model.parts, time) == raw then
    local due = unpack_text('>d', time)
    if is_time(due) and due <= now then
      return model.change, table.concat(model.new_parts, time), due
    end
  end
end

-- Return the options of a record with flags; nil for a damaged one, and for a cancelled one whose body runs.
local function usual_options(raw, flags, from)
  local options = {tags = '', slot = ''}
  local stop = decode_options(options, raw, flags, from)
  return stop == #raw + 1 and not options.releasing and options or nil
end

-- Claim a record of the kind that is Scheduled. Return {kind, text (the new record), fence, priority, due, attempts,
-- crashes, losses}, with flags also key, tags, thread and tail; or nil for an unusual record. Incarnation and node are
-- the same in all calls.
local function claimed(raw, kind, incarnation, node)
  local known = claims_of[raw]
  if known and known.kind == kind then
    return known
  end
  local model, new_text, new_due = as_model(raw, 5)
  if model and model.kind == kind then
    known = {kind = kind, fence = model.fence, priority = model.priority, due = new_due, attempts = model.attempts,
      crashes = model.crashes, losses = model.losses, text = new_text}
    claims_of[raw] = known
    return known
  end
  local ok, record_format, state, flags, entries, priority, due, fence, at, attempts, crashes, losses, max_crashes,
    retention, log_total, log_bytes, own_kind, _, history, stop = pcall(unpack_text, RECORD, raw)
  if not ok or record_format ~= FORMAT or state ~= SCHEDULED or own_kind ~= kind or flags == 0 and stop ~= #raw + 1
    or entries > MAX_HISTORY or not are_numbers(due, fence, at, retention) or fence == LATEST
    or not is_history(history, entries) then
    return nil
  end
  local options = flags ~= 0 and usual_options(raw, flags, stop)
  if flags ~= 0 and not options then
    return nil
  end
  fence, attempts = max(fence + 1, now), attempts + 1
  local text, time = latest_entry(at, PROCESSING, node, '')
  known = {kind = kind, fence = fence, priority = priority, due = due, attempts = attempts, crashes = crashes,
    losses = losses, text = pack(RECORD_WITH_ENTRY, FORMAT, PROCESSING, flags, entries + 1, priority, due, fence, time,
    attempts, crashes, losses, max_crashes, retention, log_total, log_bytes, #kind, kind, #incarnation, incarnation,
    #history + #text, history, text)}
  if options then
    known.text = known.text .. sub(raw, stop)
    known.key, known.tags, known.thread, known.tail = options.key, options.tags, options.thread, options.tail
  elseif not models[#raw] then
    models[#raw] = {raw = raw, change = known}
  end
  claims_of[raw] = known
  return known
end

-- Return {state, note, flags, kind, retention, text} for the end of a record that is Processing on the incarnation; nil
-- for an unusual record. If it has a `tail`, result and error must follow the text, and then the tail. For a record with
-- tags or a thread, return also `shown`: what be_over needs of it. Incarnation and node are the same in all calls.
local function ended_without_result(raw, incarnation, to_state, node, note, new_flags)
  local ok, record_format, state, flags, entries, priority, due, fence, at, attempts, crashes, losses, max_crashes,
    retention, log_total, log_bytes, kind, owner, history, stop = pcall(unpack_text, RECORD, raw)
  if not ok or record_format ~= FORMAT or state ~= PROCESSING or owner ~= incarnation or flags == 0 and stop ~= #raw + 1
    or flags % HAS_TAGS ~= 0 or present(flags, HAS_SLOT) or entries > MAX_HISTORY
    or not are_numbers(due, fence, at, retention) or not is_history(history, entries) or not is_text(kind) then
    return nil
  end
  local shown = flags ~= 0 and usual_options(raw, flags, stop) or nil
  if flags ~= 0 and not shown then
    return nil
  elseif shown then
    shown.kind, shown.state, shown.retention = kind, to_state, retention
  end
  local text, time = latest_entry(at, to_state, node, note)
  local known = {state = to_state, note = note, flags = new_flags, kind = kind, retention = retention, shown = shown,
    fence = digits(fence), text = pack(RECORD_WITH_ENTRY, FORMAT, to_state, new_flags + flags, entries + 1, priority, due, fence, time, attempts,
    crashes, losses, max_crashes, retention, log_total, log_bytes, #kind, kind, #owner, owner, #history + #text,
    history, text)}
  if new_flags + flags ~= 0 then
    local tags, tail = shown and shown.tags or '', shown and shown.tail
    known.text = known.text .. pack(KEY_AND_TAGS, 0, #tags, tags)
    known.tail = pack(LAST, 0, '') .. (tail and pack(LAST, #tail, tail) or '')
  end
  return known
end

-- End a record that is Processing on the incarnation with the fence. Return the new record, its kind, its retention and
-- what it has `shown`, or nil for an unusual record.
local function ended(raw, incarnation, fence, to_state, node, note, result, error_)
  local flags, known = (result and HAS_RESULT or 0) + (error_ and HAS_ERROR or 0), ends_of[raw]
  if not known or known.state ~= to_state or known.note ~= note or known.flags ~= flags then
    local model, new_text = as_model(raw, 4)
    if model and model.state == to_state and model.note == note and model.flags == flags then
      known = {state = to_state, note = note, flags = flags, kind = model.kind, retention = model.retention, text = new_text,
        fence = model.fence, tail = model.tail}
    else
      known = ended_without_result(raw, incarnation, to_state, node, note, flags)
    end
    if not known then
      return nil
    elseif not known.shown and not models[#raw] then
      models[#raw] = {raw = raw, change = known}
    end
    ends_of[raw] = known
  end
  if known.fence ~= fence then
    return nil
  end
  if not known.tail then
    return known.text, known.kind, known.retention
  end
  result, error_ = result or '', error_ or ''
  return known.text .. pack(RESULT_AND_ERROR, #result, result, #error_, error_) .. known.tail, known.kind, known.retention,
    known.shown
end
