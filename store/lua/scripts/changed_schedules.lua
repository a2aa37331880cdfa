#!lua flags=no-writes
-- What was written or removed after a revision, in the order of revisions.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     revision (0: none yet), or when a first load is under way, the one at which that began; how far the load has
--          come, or ""; limit; bytes after which the reply ends
-- Reply    {"1" to forget all, the revision at which a first load began or "", up to where all is told, "1" if there is
--          more, then per schedule as in schedule.lua, or {name, revision} of one that was removed}
local since, loaded, limit, bytes_left = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found = call('HMGET', REVISIONS, 'latest', 'floor')
local latest, floor = tonumber(found[1] or '0'), tonumber(found[2] or '0')
-- a server that lost its last second may be behind
local reset = since ~= 0 and (since < floor or since > latest)
local loads, after = reset or since == 0 or loaded ~= '', loaded ~= '' and tonumber(loaded) or since
if reset or since == 0 then
  since, after = latest, 0
end
if after == latest then
  return {reset and '1' or '', '', digits(latest), ''}
end

local told = {}
local function tell(key, from, removed)
  local some = call('ZRANGE', key, '(' .. digits(from), '+inf', 'BYSCORE', 'LIMIT', 0, limit + 1, 'WITHSCORES')
  for n = 1, #some, 2 do
    told[#told + 1] = {name = some[n], revision = tonumber(some[n + 1]), removed = removed}
  end
end
tell(SCHEDULES, after, false)
-- to a first load, only what was removed since it began is of interest
tell(REMOVED, max(after, since), true)
table.sort(told, function(a, b) return a.revision < b.revision end)

local reply, done = {'', '', '', ''}, 0
while done < min(limit, #told) and bytes_left > 0 do
  done = done + 1
  local one = told[done]
  local row = not one.removed and schedule_row(one.name)
  reply[done + 4] = one.removed and {one.name, digits(one.revision)} or row
  bytes_left = bytes_left - (row and #row[3] or 0)
end
local more = #told > done
local upto = more and told[done].revision or latest
reply[1], reply[2] = reset and '1' or '', loads and upto < since and digits(since) or ''
reply[3], reply[4] = digits(upto), more and '1' or ''
return reply
