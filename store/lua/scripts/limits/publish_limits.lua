#!lua flags=allow-oom
-- Replace the limits of kinds, one kind after the other, and add the kinds to the catalogue. The script stops at the
-- first kind that it refuses.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     per kind: kind, concurrency of each of its keys (0: no key limit), number of its shared limits, then name,
--          concurrency, period and burst of each
-- Reply    {the layout of the namespace, names of live nodes that do not read the layout of limits, then "" or the name
--          of a limit that has too many kinds, and their number}
local at, woken_kinds, is_limited = 1, {}, false
while ARGV[at] do
  is_limited = is_limited or ARGV[at + 1] ~= '0' or ARGV[at + 2] ~= '0'
  at = at + 3 + 4 * tonumber(ARGV[at + 2])
end
local refusing = is_limited and raise_layout(LIMITS_LAYOUT) or {}
if refusing[1] or tonumber(layout) < tonumber(LIMITS_LAYOUT) then
  return {layout, refusing, '', 0}
end

local crowded, count
at = 1
while ARGV[at] and not crowded do
  local published = {}
  for n = 1, tonumber(ARGV[at + 2]) do
    local from = at + 4 * n - 1
    published[n] = {name = ARGV[from], numbers = {tonumber(ARGV[from + 1]), tonumber(ARGV[from + 2]), tonumber(ARGV[from + 3])}}
  end
  crowded, count = replace_limits(ARGV[at], tonumber(ARGV[at + 1]), published, woken_kinds)
  if not crowded then
    call('ZADD', CATALOGUE, digits(now), ARGV[at])
  end
  at = at + 3 + 4 * #published
end
wake_kinds(woken_kinds)
return {layout, {}, crowded or '', count or 0}
