-- The selection of a claim: a merge of the queues of the wanted kinds, in order of priority, due time and id. A source
-- is a queue, or the index of heads. A claim reads a source in pieces, each longer than the last, so that a small claim
-- reads little.

-- A claim ends when the specs in the reply have this many bytes, so that a reply stays small.
local MAX_CLAIM_BYTES = 1048576
-- Each queue is opened once, and at most this many are opened, so that one claim stays short.
local MAX_OPENED = 200

-- Return how many instances of a kind a claim can take. A kind is held back here: the selection opens no queue of a
-- kind of which nothing remains.
local function remaining_of(claim, kind)
  local remaining = min(claim.caps[kind] or claim.default, claim.limit)
  local rule = shared and remaining > 0 and shared.rule(kind)
  if rule then
    remaining = min(remaining, shared.room(rule))
    local one, other = rule.limits[1], rule.limits[2]
    shared.held_back[kind] = remaining == 0 and (one and one.opens or other and other.opens) and rule or nil
  end
  return remaining
end

local function precedes(source, other)
  return source.score < other.score or source.score == other.score and source.member < other.member
end

-- Go on to the next instance of a source; return nil at its end.
local function advance(source, limit)
  local at = source.at + 2
  if not source.window[at] and not source.at_end then
    local piece = source.piece
    source.window = call('ZRANGE', source.key, source.offset, source.offset + piece - 1, 'WITHSCORES')
    source.at_end = #source.window < 2 * piece
    source.offset, source.piece, at = source.offset + piece, min(4 * piece, limit), 1
  end
  local score_text = source.window[at + 1]
  source.at, source.member = at, source.window[at]
  if source.score_text ~= score_text then
    source.score_text, source.score = score_text, score_text and tonumber(score_text)
  end
  return source.member
end

-- Go on to the next head. The rules of the kinds of a piece are read together, since many kinds can be without room.
local function advance_heads(heads, limit)
  local piece_end = heads.offset
  if advance(heads, shared and max(limit, 500) or limit) and shared and heads.offset ~= piece_end then
    local kinds = {}
    for n = 1, #heads.window, 2 do
      kinds[#kinds + 1] = sub(heads.window[n], ID_SIZE + 17)
    end
    shared.load(kinds)
  end
end

local function open_source(selection, kind, piece)
  local claim, key, rule = selection.claim, ready_key(kind), shared and shared.rule(kind)
  local source = {kind = kind, key = key, left = remaining_of(claim, kind), piece = min(piece, claim.limit), offset = 0,
    at = -1, taken = 0, window = {}, rule = rule and rule.limits[1] and rule}
  if source.left > 0 and advance(source, claim.limit) then
    source.head = {source.member, source.window[2]}
    selection.sources[#selection.sources + 1] = source
    checked_sizes[key] = true
    push(selection.heap, source, precedes)
    return source
  end
end

-- Return the source with the best next instance, and correct stale entries of the index of heads. Return nil if the
-- best one is in a queue too many.
local function best_source(selection)
  local claim, heads, heap, opened = selection.claim, selection.heads, selection.heap, selection.opened
  while heads.member and (not heap[1] or precedes(heads, heap[1])) do
    local kind = sub(heads.member, ID_SIZE + 17)
    if #selection.sources == MAX_OPENED then
      return nil
    end
    local has_room = remaining_of(claim, kind) > 0
    local source = opened[kind] == nil and has_room and open_source(selection, kind, 4)
    local actual = opened[kind] or source and source.member .. kind
    opened[kind] = actual or false
    if has_room and actual ~= heads.member then
      prepare_queue(kind, false, true)
      add('ZREM', heads.key, heads.member)
      if source then
        add_pair('ZADD', heads.key, source.window[2], actual)
      end
    end
    advance_heads(heads, claim.limit)
  end
  return heap[1]
end

-- Return the first suspect of the wanted kinds, or nil, and correct stale entries of the index of heads. `kinds` is
-- empty if the set of kinds has an index.
local function first_suspect(claim, kinds)
  local index, first = heads_key(claim.set, true), nil
  local entries = claim.letter == 'x' and call('ZRANGE', index, 0, 15) or {}
  for n = 1, #entries do
    kinds[n] = sub(entries[n], ID_SIZE + 17)
  end
  for begin = 1, #kinds, SLICE do
    local last, keys = min(begin + SLICE - 1, #kinds), {}
    for n = begin, last do
      keys[n - begin + 1] = suspects_key(kinds[n])
    end
    for n = begin, (entries[1] or call('EXISTS', unpack(keys)) > 0) and last or 0 do
      local kind, head = kinds[n], call('ZRANGE', suspects_key(kinds[n]), 0, 0, 'WITHSCORES')
      local suspect = head[1] and {kind = kind, suspect = true, member = head[1], score = tonumber(head[2]), left = 0,
        taken = 1, rule = shared and shared.rule(kind)}
      if entries[n] and entries[n] ~= (head[1] or '') .. kind then
        prepare_queue(kind, true, true)
        add('ZREM', index, entries[n])
        if suspect then
          add_pair('ZADD', index, head[2], head[1] .. kind)
        end
      end
      if suspect and remaining_of(claim, kind) > 0 and (not first or precedes(suspect, first)) then
        first = suspect
      end
    end
  end
  return first
end

-- Choose the suspect that the claim takes, if there is one. A suspect is an instance whose earlier nodes died. A claim
-- takes a suspect alone, and only if the suspect comes before all other instances.
local function find_suspect(selection)
  local claim = selection.claim
  local suspect = claim.wants_suspect and claim.limit > 0 and first_suspect(claim, selection.kinds)
  local first = suspect and best_source(selection)
  selection.suspect = suspect and not (first and precedes(first, suspect)) and suspect or nil
end

-- Take a start of the source, or of the best other one if its kind has no room any more, and return the source. A source
-- without room leaves the heap.
local source_with_room = shared and function(selection, source)
  local heap = selection.heap
  while source and source.rule do
    local one, other = source.rule.limits[1], source.rule.limits[2]
    if (not one or one.left > 0) and (not other or other.left > 0) then
      if one then
        one.left = one.left - 1
      end
      if other then
        other.left = other.left - 1
      end
      break
    end
    source.held_back = true
    drop_first(heap, precedes)
    source = heap[1]
    if selection.heads.member then
      source = best_source(selection)
    end
  end
  return source
end

-- Return the chosen suspect as `select_due` does, the first time that this is called for the suspect.
local function select_suspect(selection)
  local suspect = selection.suspect
  if suspect and not suspect.selected then
    suspect.selected = true
    if suspect.rule then
      shared.take(suspect.rule, 1)
    end
    return {sub(suspect.member, 17)}, {suspect}
  end
end

-- Begin to select the instances of a claim.
local function open_selection(claim)
  local limit = claim.limit
  local kinds = claim.letter == 's' and claim.named or claim.letter == 'u' and limit > 0
    and call('SMEMBERS', set_key(claim.set)) or {}
  local heads = {key = heads_key(claim.set, false), offset = 0, at = -1, window = {}, piece = 16,
    at_end = claim.letter ~= 'x' or limit <= 0}
  local selection = {claim = claim, kinds = kinds, sources = {}, heap = {}, heads = heads, opened = {}, suspect = nil}
  -- The last kind of a node is that of flows, of which mostly none waits: then the others are opened as without it.
  for n = #kinds, 1, -1 do
    open_source(selection, kinds[n], n == 1 and not selection.sources[1] and limit or 16)
  end
  advance_heads(heads, limit)
  find_suspect(selection)
  return selection
end

-- Return the ids of the next instances, and the source of each; nil if the claim is full, or nothing is left.
local function select_due(selection)
  local claim, heap, heads, suspect = selection.claim, selection.heap, selection.heads, selection.suspect
  if suspect and suspect.selected and claim.count == 0 then
    -- The entry of a suspect that cannot be claimed leaves its queue at once, so that the next suspect is found.
    add('ZREM', prepare_queue(suspect.kind, true, true), suspect.member)
    write_all()
    find_suspect(selection)
  end
  if selection.suspect then
    return select_suspect(selection)
  elseif claim.cut_at or claim.count >= claim.limit then
    return nil
  end
  local ids, sources, limit = {}, {}, claim.limit
  -- Assume that the next instances are as large as the largest so far, so that the script reads few that do not fit.
  local some = claim.largest == 0 and 8 or max(1, min(32, math.floor((MAX_CLAIM_BYTES - claim.bytes) / claim.largest)))
  -- A single source gives no more than there is room for, so its starts are taken together.
  local only = shared and not (selection.sources[2] or heads.member) and selection.sources[1]
  for n = 1, min(some, limit - claim.count) do
    local source = heap[1]
    if heads.member then
      source = best_source(selection)
    end
    if shared and not only then
      source = source_with_room(selection, source)
    end
    if not source then
      break
    end
    ids[n], sources[n] = sub(source.member, 17), source
    source.left = source.left - 1
    source.taken = source.taken + 1
    if advance(source, limit) and source.left > 0 then
      if heap[2] then
        sink(heap, precedes)
      end
    else
      drop_first(heap, precedes)
    end
  end
  if only and only.rule then
    shared.take(only.rule, #ids)
  end
  if not ids[1] and claim.count == 0 and claim.refused > 0 then
    -- The instances before the first suspect could not be claimed.
    find_suspect(selection)
    return select_suspect(selection)
  end
  return ids[1] and ids, sources
end
