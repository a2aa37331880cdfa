-- The reply of a claim, and its repeat. claim.lua describes the reply. A request that was answered before gets the same
-- claims again, so a lost reply loses no claim.
local claim_labels, claim_shapes = {}, {}
local claim_reply, claim_reply_size = {'ok', now, 0, {}, claim_labels, claim_shapes}, 6

-- Add a claim to the reply. `shape` has the fields of a shape, and the key, the tags and the tail of a record that can
-- have them; the number of the shape is kept in `shape`.
local function add_to_reply(id, spec, shape)
  if not shape.number then
    local size = #claim_shapes
    claim_shapes[size + 1], claim_shapes[size + 2], claim_shapes[size + 3] = shape.kind, shape.fence, shape.priority
    claim_shapes[size + 4], claim_shapes[size + 5], claim_shapes[size + 6] = shape.due, shape.attempts, shape.crashes
    claim_shapes[size + 7] = shape.losses
    shape.number = size / 7 + 1
    if shape.key or shape.thread or shape.tags and shape.tags ~= '' then
      size = #claim_labels
      claim_labels[size + 1], claim_labels[size + 2] = shape.number, shape.key and 'k' .. shape.key or ''
      claim_labels[size + 3], claim_labels[size + 4] = shape.tags, shape.thread and shape.tail or ''
    end
  end
  local size = claim_reply_size
  claim_reply[size + 1], claim_reply[size + 2], claim_reply[size + 3] = id, spec, shape.number
  claim_reply_size = size + 3
end

-- Return the record and the spec of each instance in one list, and the keys of both.
local function read_with_specs(ids)
  local keys, size = {}, 0
  for n = 1, #ids do
    local id = ids[n]
    keys[size + 1], keys[size + 2] = record_key(id), spec_key(id)
    size = size + 2
  end
  return call('MGET', unpack(keys)), keys
end

-- Return the text that keeps an answer: the lines are request, time, next due time or 0, ids, and fences. There is one
-- fence if all claims have the same fence. All arguments are texts.
local function kept_answer(request, next_due, ids, fences)
  return request .. '\n' .. digits(now) .. '\n' .. next_due .. '\n' .. ids .. fences
end

-- Return the text that keeps the reply.
local function kept_reply(request)
  local count, ids, fences, is_one = (claim_reply_size - 6) / 3, {}, '', true
  for n = 9, #claim_shapes, 7 do
    is_one = is_one and claim_shapes[n] == claim_shapes[2]
  end
  for n = 1, count do
    ids[n] = claim_reply[3 * n + 4]
  end
  for n = 1, is_one and min(1, count) or count do
    fences = fences .. '\n' .. digits(claim_shapes[7 * claim_reply[3 * n + 6] - 5])
  end
  return kept_answer(request, digits(claim_reply[3]), table.concat(ids), fences)
end

-- Return the claims of a kept answer (a list of ids, and a list of fences), its time and its next due time.
local function kept_claims(kept, request)
  local at, next_due, ids_text, fences_text = match(kept, '^(%d+)\n(%d+)\n([^\n]*)(.*)$', #request + 2)
  local ids, fences, next_fence = {}, {}, string.gmatch(fences_text, '%d+')
  for from = 1, #ids_text, ID_SIZE do
    local n = #ids + 1
    ids[n], fences[n] = sub(ids_text, from, from + ID_SIZE - 1), next_fence() or fences[n - 1]
  end
  return ids, fences, at, next_due
end

-- Return the reply for a request that was answered before, without the claims that have ended since.
local function repeat_claims(request, kept)
  local ids, fences, at, next_due = kept_claims(kept, request)
  claim_reply[2], claim_reply[3] = tonumber(at), tonumber(next_due)
  local stored = #ids > 0 and read_with_specs(ids)
  for n, id in ipairs(ids) do
    local record, spec = decode(stored[2 * n - 1]), stored[2 * n]
    -- With another fence, the claim is a later one, which its node runs.
    local held = record and record.state == PROCESSING and digits(record.fence) == fences[n]
    if held and spec then
      add_to_reply(id, spec, record)
    end
  end
  return claim_reply
end

-- Return the reply for a request that was answered before; or nil. `kept` is the answer to the last request of the command.
local function repeat_answer(command, request, kept)
  -- An answer that cannot be read counts as none: the node hands back the claims that it does not know.
  if not kept or not find(kept, '^[^\n]*\n%d+\n%d+\n') then
    return nil
  elseif sub(kept, 1, #request + 1) ~= request .. '\n' then
    -- The call waited on a connection that its node has left: no node reads the reply.
    local is_late = command == 'hint-claim' and request < kept
    return is_late and claim_reply or nil
  end
  return repeat_claims(request, kept)
end
