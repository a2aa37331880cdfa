#!lua flags=no-writes
-- Read a page of instances in order of creation. If there are more kinds than one call looks at, the reply has only
-- ids, some kinds a call, and read.lua reads the instances afterwards.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     "k" and a kind, "t" and a tag, or "" for all kinds; states (a sum, ignored with a tag); the bounds of ids as
--          ZRANGE BYLEX takes them; "1" for the newest first; limit; bytes after which the reply ends; cursor of kinds
--          ("0" to begin), number of kinds to look at
-- Reply    {next cursor of kinds ("0" at the end), "1" if one call is enough, "1" if there are more instances,
--          entries that are no ids, each with its index in front; per instance: id, record or nil, spec or nil}. If one call is not enough: only ids, and one more than the
--          limit
local what, name, states = sub(ARGV[1], 1, 1), sub(ARGV[1], 2), tonumber(ARGV[2])
local limit, cursor = tonumber(ARGV[6]), ARGV[8]
local keys, next_cursor = nil, '0'
if what == 't' then
  keys = {tag_key(name)}
elseif what == 'k' then
  keys = indexes({name}, states)
else
  local kinds
  kinds, next_cursor = some_kinds(cursor, ARGV[9])
  keys = indexes(kinds, states)
end
local is_all = cursor == '0' and next_cursor == '0'
local ids, more, wrong = page(keys, ARGV[3], ARGV[4], ARGV[5] == '1', is_all and limit or limit + 1)
local reply = {next_cursor, is_all and '1' or '', more and '1' or '', wrong}
if not is_all then
  for n, id in ipairs(ids) do
    reply[n + 4] = id
  end
  return reply
end
local done = read_payloads(ids, true, tonumber(ARGV[7]), function(n, raw, spec)
  reply[3 * n + 2], reply[3 * n + 3], reply[3 * n + 4] = ids[n], raw, spec
end)
if done < #ids then
  reply[3] = '1'
end
return reply
