-- An entry of an `own:` hash is the fence, followed by a letter for each of s (started), q (suspect) and r (releasing),
-- and the fence again, so that a damaged entry shows. Earlier releases wrote no second fence.
-- The entry is padded beyond hash-max-listpack-value. Otherwise the server would store a hash of up to 512 claims as a
-- list, and search the list for each claim.
local PADDING = string.rep(' ', 50)

local function claim_entry(fence, flags)
  return fence .. flags .. ' ' .. fence .. PADDING
end

-- The last entry is kept: most instances of a batch have the same entry.
local last_entry, last_fence, last_flags = nil, nil, nil

-- Return the fence and the letters of an entry, or nil for a damaged entry.
local function claim_parts(entry_text)
  if entry_text == last_entry then
    return last_fence, last_flags
  end
  local fence, flags = match(entry_text, '^(%d+)(%a*) %1 ')
  if fence then
    last_entry, last_fence, last_flags = entry_text, fence, flags
    return fence, flags
  end
  local copy
  fence, flags, copy = match(entry_text, '^(%d+)(%a*) *(%d*)')
  if fence and (copy == fence or copy == '' and #fence <= 16 and sub(entry_text, -1) == ' ') then
    return fence, flags
  end
end

local function has_flag(flags, letter)
  return find(flags, letter, 1, true) ~= nil
end

-- Return the fence and the letters of the claim that a record shows, or nil. The record decides about a claim whose
-- entry is damaged or missing; it does not show that the run has started. A cancelled instance whose body still runs
-- does not name its incarnation.
local function claim_of(record, incarnation)
  if record and record.releasing then
    return digits(record.fence), 'r'
  elseif record and record.state == PROCESSING and record.owner == incarnation then
    return digits(record.fence), is_suspect(record) and 'q' or ''
  end
end

-- Return whether a record is claimed by an incarnation. A fence belongs to one claim only, so the fence also shows the
-- claim of a record whose owner is damaged.
local function holds(record, incarnation, fence)
  return record.state == PROCESSING and (record.owner == incarnation or digits(record.fence) == fence)
end

-- Write the entries of the claims that an incarnation has among `ids` according to their records.
local function restore_claims(incarnation, ids, known)
  local keys = {}
  for n, id in ipairs(ids) do
    keys[n] = record_key(id)
  end
  for n, raw in ipairs(#ids > 0 and call('MGET', unpack(keys)) or {}) do
    local record = decode(raw)
    local fence, flags = claim_of(record, incarnation)
    if fence and (known[ids[n]] ~= nil or not record.releasing) then
      known[ids[n]] = true
      call('HSET', owned_key(incarnation), ids[n], claim_entry(fence, flags))
    end
  end
end

local function is_hash(key)
  return type(redis.pcall('HLEN', key)) == 'number'
end

-- Return whether each entry of the claims of an incarnation can be read.
local function are_whole(key)
  local claims = redis.pcall('HGETALL', key)
  for n = 1, #claims, 2 do
    if not is_id(claims[n]) or not claim_parts(claims[n + 1]) then
      return false
    end
  end
  return not claims.err
end

-- Replace the damaged entries of the claims of an incarnation by what the records show; return how many there were. If
-- an entry does not name its instance, search the first Processing instances of each kind.
local function mend_claims(incarnation)
  local MAX_SEARCHED = 1000
  local key, known, damaged, incomplete, count = owned_key(incarnation), {}, {}, false, 0
  if not is_hash(key) then
    call('RENAME', key, bad_key('own:' .. incarnation))
    call('PEXPIRE', bad_key('own:' .. incarnation), 7 * 86400000)
    incomplete, count = true, 1
  end
  local claims = call('HGETALL', key)
  for n = 1, #claims, 2 do
    known[claims[n]] = true
    if not is_id(claims[n]) or not claim_parts(claims[n + 1]) then
      known[claims[n]], count = false, count + 1
      damaged[#damaged + 1] = claims[n]
    end
  end
  for first = 1, #damaged, SLICE do
    restore_claims(incarnation, {unpack(damaged, first, min(first + SLICE - 1, #damaged))}, known)
  end
  for _, id in ipairs(damaged) do
    if not known[id] then
      call('HDEL', key, id)
      incomplete = true
    end
  end
  local left = incomplete and MAX_SEARCHED or 0
  for _, kind in ipairs(incomplete and some_kinds('0', MAX_SEARCHED) or {}) do
    local ids = left > 0 and call('ZRANGE', index_key(PROCESSING, kind), 0, left - 1) or {}
    left = left - #ids
    local unknown = {}
    for _, id in ipairs(ids) do
      unknown[#unknown + 1] = not known[id] and id or nil
    end
    restore_claims(incarnation, unknown, known)
  end
  if count > 0 then
    count_damaged(count)
  end
  return count
end

-- Plan to end the claims of instances whose records do not name the incarnation: cancelled or unreadable ones.
local function end_claims_of(ids)
  local incarnations = #ids > 0 and call('ZRANGE', LEASES, 0, -1) or {}
  local dead = #ids > 0 and call('HGETALL', DEAD) or {}
  for n = 1, #dead, 2 do
    incarnations[#incarnations + 1] = dead[n]
  end
  for _, incarnation in ipairs(incarnations) do
    local key = owned_key(incarnation)
    for n, claim in ipairs(call('HMGET', key, unpack(ids))) do
      if claim then
        add('HDEL', key, ids[n])
      end
    end
  end
end
