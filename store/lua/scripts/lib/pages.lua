-- A page of ids from several indexes, in order of creation.

-- Return the keys of the indexes of some kinds, for each state in `states`, a sum of state numbers.
local function indexes(kinds, states)
  local keys = {}
  for _, kind in ipairs(kinds) do
    for _, state in ipairs(SINGLE) do
      if states % (2 * state) >= state then
        keys[#keys + 1] = index_key(state, kind)
      end
    end
  end
  return keys
end

-- A page ends after half as many entries that are no ids, so that a page stays short.
local MAX_WRONG = 1000

-- Return up to `limit` ids between two bounds of ZRANGE BYLEX, whether there are more, and a flat list of entries that
-- are no ids, each with its index. Each index is read once for
-- its first ids, and again only if those are used up, so a page costs about one read per index.
local function page(keys, first, last, descending, limit)
  local function is_before(one, other)
    if descending then
      return one.ids[one.at] > other.ids[other.at]
    end
    return one.ids[one.at] < other.ids[other.at]
  end

  local function read_more(source)
    local key, from, count = source.key, source.from, source.count
    source.ids = descending and call('ZRANGE', key, from or last, first, 'BYLEX', 'REV', 'LIMIT', 0, count)
      or call('ZRANGE', key, from or first, last, 'BYLEX', 'LIMIT', 0, count)
    source.at = 1
    return source.ids[1]
  end

  local heap = {}
  for _, key in ipairs(keys) do
    local source = {key = key, count = math.ceil((limit + 1) / #keys)}
    if read_more(source) then
      heap[#heap + 1] = source
    end
  end
  table.sort(heap, is_before)
  local ids, wrong = {}, {}
  while heap[1] and #ids < limit and #wrong < MAX_WRONG do
    local source = heap[1]
    local id = source.ids[source.at]
    if is_id(id) then
      ids[#ids + 1] = id
    else
      wrong[#wrong + 1], wrong[#wrong + 2] = source.key, id
    end
    source.at = source.at + 1
    local left = source.ids[source.at]
    if not left and #source.ids == source.count then
      source.from, source.count = '(' .. id, min(4 * source.count, limit)
      left = read_more(source)
    end
    if left then
      sink(heap, is_before)
    else
      drop_first(heap, is_before)
    end
  end
  return ids, heap[1] ~= nil, wrong
end
