-- A page of ids out of several indexes, in order of creation.

-- The indexes of these states (a sum of state numbers) of one kind, or of all.
local function indexes(kind, states)
  local keys = {}
  for _, one in ipairs(kind and {kind} or call('SMEMBERS', KINDS)) do
    for _, state in ipairs(SINGLE) do
      if states % (2 * state) >= state then
        keys[#keys + 1] = index_key(state, one)
      end
    end
  end
  return keys
end

-- Up to `limit` ids between two bounds of ZRANGE BYLEX, and whether there may be more.
local function page(keys, first, last, descending, limit)
  local ids, more = {}, false
  for _, key in ipairs(keys) do
    local found = descending and call('ZRANGE', key, last, first, 'BYLEX', 'REV', 'LIMIT', 0, limit)
      or call('ZRANGE', key, first, last, 'BYLEX', 'LIMIT', 0, limit)
    more = more or #found == limit
    for _, id in ipairs(found) do
      ids[#ids + 1] = id
    end
    if #ids >= limit then
      table.sort(ids, descending and function(a, b) return a > b end or nil)
      more = more or #ids > limit
      for n = #ids, limit + 1, -1 do
        ids[n] = nil
      end
      -- nothing past the last of these is wanted from the other indexes
      if descending then
        first = '[' .. ids[limit]
      else
        last = '[' .. ids[limit]
      end
    end
  end
  table.sort(ids, descending and function(a, b) return a > b end or nil)
  return ids, more
end
