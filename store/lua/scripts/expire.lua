#!lua flags=allow-oom
-- Remove final instances whose time is over, or that are too many of their kind.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     limit, most final instances per kind
-- Reply    how many were removed
local limit, removed = tonumber(ARGV[1]), 0
for _, kind in ipairs(call('SMEMBERS', KINDS)) do
  if removed < limit then
    removed = removed + remove_expired(kind, 0, limit - removed, tonumber(ARGV[2]))
  end
end
write_all()
return removed
