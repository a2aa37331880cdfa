#!lua flags=no-writes
-- What was written or removed after a revision, in the order of revisions.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     revision (0: none yet), or when a first load is under way, the one at which that began; how far the load has
--          come, or ""; limit
-- Reply    {"1" to forget all, the revision at which a first load began or "", up to where all is told, "1" if there is
--          more, then per schedule as in schedule.lua, or {name, revision} of one that was removed}
local since, loaded, limit = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
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

local more = #told > limit
local upto = more and told[limit].revision or latest
local reply = {reset and '1' or '', loads and upto < since and digits(since) or '', digits(upto), more and '1' or ''}
for n = 1, min(limit, #told) do
  local one = told[n]
  reply[#reply + 1] = one.removed and {one.name, digits(one.revision)} or schedule_row(one.name)
end
return reply
