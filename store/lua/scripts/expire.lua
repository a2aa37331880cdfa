#!lua flags=allow-oom
-- Remove final instances whose time is over, or that are too many of their kind, some kinds at a time; and forget kinds of
-- which no instance and no set is left.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     limit, most final instances per kind, cursor of kinds ("0" to begin), how many kinds to look at
-- Reply    {how many were removed, next cursor ("0" at the end)}
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
write_all()
return {removed, cursor}
