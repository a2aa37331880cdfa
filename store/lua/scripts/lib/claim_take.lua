-- The change of selected instances from Scheduled to Processing.

-- The entry of the last fence is kept: most instances of a batch get the same fence.
local given_fence, given_entry = nil, nil

-- Plan to write an instance as claimed.
local function give(claim, id, key, kind, text, fence, flags)
  claim.count = claim.count + 1
  put_string(key, text)
  move_in_index(kind, id, SCHEDULED, PROCESSING)
  if fence ~= given_fence then
    given_fence, given_entry = fence, claim_entry(digits(fence), flags)
  end
  add_pair('HSET', claim.owned, id, given_entry)
  if changes_wanted then
    hint_change(id)
  end
end

-- Claim an instance whose record is not as most are. Return whether it can be claimed, and its record.
local function take_unusual(claim, id, key, kind, raw, spec, flags)
  local record = decode(raw)
  if not spec or not record or record.state ~= SCHEDULED or record.kind ~= kind or record.fence == LATEST then
    return false, record
  end
  record.fence, record.owner = max(record.fence + 1, now), claim.incarnation
  record.attempts = record.attempts + 1
  add_transition(record, PROCESSING, claim.name, '')
  give(claim, id, key, kind, encode(record), record.fence, flags)
  add_to_reply(id, spec, record)
  return true, record
end

-- Give a source one more instance, instead of one that it returned and that cannot be claimed.
local function replace_pick(selection, source)
  source.left = source.left + 1
  if source.left == 1 and source.member and not source.suspect then
    push(selection.heap, source, precedes)
  end
  if source.rule then
    shared.take(source.rule, -1)
    for _, other in ipairs(selection.sources) do
      if other.held_back and shared.room(other.rule) > 0 then
        other.held_back = nil
        push(selection.heap, other, precedes)
      end
    end
  end
end

-- Claim the selected instances that can be claimed and fit into the reply, and set unreadable ones aside. An instance
-- that does not fit stays in its queue.
local function take(claim, selection, ids, sources)
  local stored, keys = read_with_specs(ids)
  local incarnation, name = claim.incarnation, claim.name
  for n = 1, #ids do
    local id, raw, spec, source, key = ids[n], stored[2 * n - 1], stored[2 * n], sources[n], keys[2 * n - 1]
    local kind, flags = source.kind, source.suspect and 'q' or ''
    local size = (raw and #raw or 0) + (spec and #spec or 0)
    if size > claim.largest then
      claim.largest = size
    end
    if claim.cut_at or spec and claim.bytes > 0 and claim.bytes + #spec > MAX_CLAIM_BYTES then
      source.taken = source.taken - 1
      if source.rule then
        shared.take(source.rule, -1)
      end
      claim.cut_at = claim.cut_at or kind
    else
      local usual = claimed(raw, kind, incarnation, name)
      local is_taken, unusual = usual and spec, nil
      if is_taken then
        give(claim, id, key, kind, usual.text, usual.fence, flags)
        add_to_reply(id, spec, usual)
      elseif not usual then
        is_taken, unusual = take_unusual(claim, id, key, kind, raw, spec, flags)
      end
      if is_taken then
        claim.bytes = claim.bytes + #spec
      else
        claim.refused = claim.refused + 1
        replace_pick(selection, source)
        if unusual and spec and unusual.fence < LATEST then
          -- The record decides: an instance that is in another state or of another kind only leaves this queue.
          count_stray(id, kind, 'its entry in a queue is wrong and is removed')
        elseif raw or call('EXISTS', bad_key(id)) == 0 then
          set_aside(id, kind, not raw and 'queued without a record' or not spec and 'queued without arguments'
            or 'unreadable record')
        end
      end
    end
  end
end
