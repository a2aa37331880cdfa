#!lua flags=no-writes
-- List the schedules that were written or removed after a revision, in the order of revisions.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     revision (0: none), or during a first load, the revision at which the load began; the revision that the load
--          has reached, or ""; limit; bytes after which the reply ends
-- Reply    {"1" if the reader must forget all schedules; the revision at which a first load began, or ""; the revision
--          up to which the reply is complete; "1" if there is more; then per schedule its row as in lib/schedule.lua,
--          or {name, revision} if it was removed}
local since, loaded, limit, bytes_left = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local latest_revision, floor = revisions_now()
-- If the server lost its last second of writes, its latest revision can be below the revision of the reader. The reader
-- must load all schedules again.
local reset = since ~= 0 and (since < floor or since > latest_revision)
local loads, after = reset or since == 0 or loaded ~= '', loaded ~= '' and tonumber(loaded) or since
if reset or since == 0 then
  since, after = latest_revision, 0
end
if after == latest_revision then
  return {reset and '1' or '', '', digits(latest_revision), ''}
end

local changes = {}
local function collect(key, from, removed)
  -- A revision that is no number of the range belongs to a damaged entry, which a first load reads, too.
  local some = call('ZRANGE', key, from == 0 and '-inf' or '(' .. digits(from), '+inf', 'BYSCORE', 'LIMIT', 0, limit + 1, 'WITHSCORES')
  for n = 1, #some, 2 do
    local revision = tonumber(some[n + 1])
    revision = is_time(revision) and revision or latest_revision
    changes[#changes + 1] = {name = some[n], revision = revision, removed = removed}
  end
end
collect(SCHEDULES, after, false)
-- A first load needs only removals since the load began: the reader knows no schedule that was removed earlier.
collect(REMOVED, max(after, since), true)
table.sort(changes, function(a, b) return a.revision < b.revision end)

local reply, done = {'', '', '', ''}, 0
while done < min(limit, #changes) and bytes_left > 0 do
  done = done + 1
  local change = changes[done]
  local row = not change.removed and schedule_row(change.name)
  reply[done + 4] = change.removed and {change.name, digits(change.revision)} or row
  bytes_left = bytes_left - size_of_row(row)
end
local more = #changes > done
local upto = more and changes[done].revision or latest_revision
reply[1], reply[2] = reset and '1' or '', loads and upto < since and digits(since) or ''
reply[3], reply[4] = digits(upto), more and '1' or ''
return reply
