#!lua flags=allow-oom
-- Remove final instances that have expired or exceed the limit of their kind, some kinds a call. Forget kinds that have
-- no instance and are in no registered set.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     limit, limit of final instances per kind, cursor of kinds ("0" to begin), number of kinds to look at
-- Reply    {number of removed instances, next cursor ("0" at the end)}
local limit, removed = tonumber(ARGV[1]), 0
local kinds, cursor = some_kinds(ARGV[3], ARGV[4])
for _, kind in ipairs(kinds) do
  if removed < limit then
    removed = removed + remove_expired(kind, 0, limit - removed, tonumber(ARGV[2]))
  end
  if sets_of(kind) == '' and not has_instances(kind) then
    add('HDEL', KINDS, kind)
  end
end
for _, kind in ipairs(unreadable_kinds) do
  add('HDEL', KINDS, kind)
end
write_all()
if #unreadable_kinds > 0 then
  count_damaged(#unreadable_kinds)
end
return {removed, cursor}
