#!lua flags=no-writes
-- Read a page of a ledger, latest nominal time first. At the same nominal time, instances come before the stretch.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     schedule, first time, last time (as ZRANGE BYSCORE takes them), number of records of the last time to skip,
--          limit
-- Reply    {time of the last record, number of records of that time so far, "1" if there are more, then the records}
local skipped, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local found = {}
for position, key in ipairs({fired_key(ARGV[1]), gaps_key(ARGV[1])}) do
  local some = call('ZRANGE', key, ARGV[3], ARGV[2], 'BYSCORE', 'REV', 'LIMIT', 0, skipped + limit + 1, 'WITHSCORES')
  for n = 1, #some, 2 do
    found[#found + 1] = {raw = some[n], nominal = tonumber(some[n + 1]), position = position, n = n}
  end
end
table.sort(found, function(a, b)
  if a.nominal ~= b.nominal then
    return a.nominal > b.nominal
  end
  return a.position < b.position or a.position == b.position and a.n < b.n
end)
local last = min(skipped + limit, #found)
local reply = {'', 0, #found > last and '1' or ''}
for n = skipped + 1, last do
  reply[#reply + 1] = found[n].raw
end
for n = last, 1, -1 do
  if found[n].nominal ~= found[last].nominal then
    break
  end
  reply[1], reply[2] = digits(found[n].nominal), reply[2] + 1
end
return reply
