-- The end of a claim (the instance ends, or returns to its queue), and retention.

-- A client repeats an enqueue whose answer was lost, so the id of an instance that is removed early is remembered until
-- no repeat can arrive. `created` is a time of the server: the time in the id comes from the clock of the client, which
-- can be wrong. The relay of an outbox can repeat an enqueue for longer.
local function repeat_ms(id)
  return sub(id, OUTBOX_MARK_FIRST, OUTBOX_MARK_LAST) == OUTBOX_MARK and OUTBOX_REPEAT_MS or REPEAT_MS
end

local function remember_removed(id, created)
  local period = repeat_ms(id)
  local left = min(math.ceil((created - now) / 1000) + period, period)
  if left > 0 then
    gone[#gone + 1] = {id, left}
  end
end

-- Remove an instance with its logs and index entries; `tags` are the tags in the record of the instance. `has_thread`:
-- whether it can have steps.
local function remove(id, kind, state, tags, has_thread)
  add('ZREM', index_key(state, kind), id)
  unlink(record_key(id))
  unlink(spec_key(id))
  unlink(logs_key(id))
  if has_thread then
    unlink(steps_key(id))
  end
  each_text(tags, function(tag)
    check_zset(tag_key(tag))
    add('ZREM', tag_key(tag), id)
  end)
end

local function expiry_member(record, id)
  return id .. STATE_TEXT[record.state] .. (record.tags ~= '' and '+' or '') .. (record.thread and '*' or '')
end

-- Return up to `max_count` of the first final instances of a kind, and by how many they exceed `max_final`; nil if none
-- has expired and they do not exceed it. `added` is the number of final instances that the script adds and that are not
-- written yet.
local function find_expired(kind, added, max_count, max_final)
  local key = expiry_key(kind)
  check_zset(key)
  local excess = checked_sizes[key] + added - max_final
  if checked_sizes[key] == 0 and excess <= 0 then
    return nil
  end
  -- Usually nothing has expired, so read the first instance alone to find out.
  local found = call('ZRANGE', key, 0, excess > 0 and max_count - 1 or 0, 'WITHSCORES')
  if excess <= 0 and found[2] and tonumber(found[2]) <= now then
    found = call('ZRANGE', key, 0, max_count - 1, 'WITHSCORES')
  end
  return (excess > 0 or found[2] and tonumber(found[2]) <= now) and found or nil, excess
end

-- Remove what find_expired finds; return how many it removed.
local function remove_expired(kind, added, max_count, max_final)
  local key, found, excess = expiry_key(kind), find_expired(kind, added, max_count, max_final)
  found = found or {}
  local removed = 0
  for n = 1, #found, 2 do
    if tonumber(found[n + 1]) > now and removed >= excess then
      break
    end
    local member = found[n]
    local id, state, tagged, has_thread = sub(member, 1, ID_SIZE), match(member, '^(%d+)(%+?)(%*?)$', ID_SIZE + 1)
    if state then
      local early = tonumber(found[n + 1]) > now
      local record = (early or tagged == '+') and decode(call('MGET', record_key(id))[1])
      if early then
        remember_removed(id, record and created_at(record) or now)
      end
      remove(id, kind, state, record and record.tags or '', has_thread == '*')
    end
    add('ZREM', key, member)
    removed = removed + 1
  end
  return removed
end

-- Free the unique key, the slot and the key of the gate of an instance whose body has ended, so that other instances can
-- take them.
local function release_key_and_slot(record, id)
  if gates then
    leave_gate(id, record.kind, true)
  end
  if record.key and call('HGET', unique_key(record.kind), record.key) == id then
    add('HDEL', unique_key(record.kind), record.key)
  end
  if record.slot ~= '' then
    free_slot_later(record.slot, id)
    record.slot = ''
  end
end

-- Add a final instance to the index of expiry, from which retention removes expired instances. `own_retention` is
-- negative for instances that have none of their own.
local function set_expiry(kind, id, member, own_retention, retention)
  local key, kept = expiry_key(kind), own_retention >= 0 and own_retention or retention
  check_zset(key)
  add_pair('ZADD', key, now + kept, member)
  if kept < OUTBOX_REPEAT_MS * 1000 and kept < repeat_ms(id) * 1000 then
    remember_removed(id, now)
  end
end

-- Let a final instance expire whose body has ended, unless its parent holds it. An instance with a thread ends only in a
-- script that follows up ends; any other script fails here, before its first write. Return whether the parent holds it.
local function be_over(record, id, retention)
  local held = record.thread and threads.is_over(record, id, retention)
  if not held then
    set_expiry(record.kind, id, expiry_member(record, id), record.retention, retention)
  end
  return held
end

-- Make an instance final. Return whether its parent holds it.
local function finish(record, id, state, node, note, retention)
  local before = record.state
  add_transition(record, state, node, note)
  record.owner = ''
  reindex(record, id, before)
  if record.thread then
    threads.final(record, id)
  end
  return not record.releasing and be_over(record, id, retention)
end

-- Change an instance from Scheduled or Processing to Cancelled. A node that runs the instance keeps the claim, marked
-- as releasing, until the body ends.
local function cancel(record, id, node, note, retention)
  if record.state == SCHEDULED then
    remove_from_queue(record, id)
    release_key_and_slot(record, id)
  else
    local owned = owned_key(record.owner)
    local claim = call('HGET', owned, id)
    if claim then
      local fence, flags = claim_parts(claim)
      if not fence then
        fence, flags = claim_of(record, record.owner)
      end
      add_pair('HSET', owned, id, claim_entry(fence, flags .. 'r'))
      record.releasing = true
      hint(record.owner, 'c' .. id)
    else
      release_key_and_slot(record, id)
    end
  end
  finish(record, id, CANCELLED, node, note, retention)
  if shared and record.releasing and shared.rule(record.kind) then
    call('SCARD', kind_key('r', record.kind))
    add('SADD', kind_key('r', record.kind), id)
  end
  put_string(record_key(id), encode(record))
  hint_change(id)
end

local ended_ids, ended_kinds = {}, {}

-- Keep that a claim ended with a final instance. A held one does not count among the final ones of its kind.
local function remember_end(kind, id, held)
  ended_ids[#ended_ids + 1] = id
  if not held then
    ended_kinds[kind] = (ended_kinds[kind] or 0) + 1
  end
end

-- Only end_claim and end_usual end a claim: the entry of the claim is removed, and the instance becomes Scheduled or final. If
-- the instance was cancelled during its run, its unique key and its slot become free.
-- `to` is {state, due, node, note, retention}, or nil if the instance is not claimed. The caller writes the record.
local function end_claim(incarnation, id, record, to)
  add('HDEL', owned_key(incarnation), id)
  if shared and record and record.state == CANCELLED and shared.rule(record.kind) then
    shared.ends(record.kind)
    add('SREM', kind_key('r', record.kind), id)
  end
  if not to then
    return
  elseif record.releasing then
    record.releasing = false
    release_key_and_slot(record, id)
    be_over(record, id, to.retention)
  elseif to.state == SCHEDULED then
    add_transition(record, SCHEDULED, to.node, to.note)
    record.owner, record.due = '', to.due
    if gates then
      leave_gate(id, record.kind, false)
    end
    reindex(record, id, PROCESSING)
    if not to.waits then
      add_to_queue(id, record.kind, record.priority, record.due, is_suspect(record))
    end
  else
    local held = finish(record, id, to.state, to.node, to.note, to.retention)
    release_key_and_slot(record, id)
    remember_end(record.kind, id, held)
  end
end

-- End the claim of an instance with a usual record, and plan to write the record. Return the record, or nil for an
-- unusual one, which is for end_claim. `owned` is the key of the claims.
local function end_usual(owned, incarnation, id, key, raw, fence, state, node, note, result, error_, retention)
  local record, kind, own_retention, shown = ended(raw, incarnation, fence, state, node, note, result, error_)
  if shown and shown.thread and not threads then
    return nil
  elseif record then
    add('HDEL', owned, id)
    move_in_index(kind, id, PROCESSING, state)
    local held = false
    if shown and shown.thread then
      threads.final(shown, id)
    end
    if shown then
      held = be_over(shown, id, retention)
    else
      set_expiry(kind, id, id .. STATE_TEXT[state], own_retention, retention)
    end
    remember_end(kind, id, held)
    if gates then
      local ended_here = gates.ends[kind]
      if ended_here then
        ended_here[#ended_here + 1] = id
      elseif ended_here == nil then
        end_past_gate(id, kind)
      end
    end
    put_string(key, record)
    if changes_wanted then
      hint_change(id)
    end
  end
  return record
end

-- Do what ended claims require: send hints to waiting nodes, apply retention, pass slots on, and wake nodes for new
-- work.
local function after_claims(max_final)
  if threads and threads.joins then
    threads.joins.write()
  end
  hint_end(ended_ids)
  for kind, added in pairs(ended_kinds) do
    remove_expired(kind, added, 2 * added, max_final)
  end
  pass_slots_and_wake()
end
