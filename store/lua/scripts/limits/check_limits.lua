#!lua flags=allow-oom
-- Remove the limits of kinds that have left the catalogue.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     how long a kind is kept
-- Reply    nothing
local since, woken_kinds, stored = now - tonumber(ARGV[1]), {}, shared and call('HGETALL', LIMITS) or {}
for n = 1, #stored, 2 do
  local kind = sub(stored[n], 1, 1) == 'k' and sub(stored[n], 2)
  local rule = kind and rule_in(stored[n + 1])
  if rule and (rule.names[1] or rule.by_code > 0) then
    local at = call('ZSCORE', CATALOGUE, kind)
    if not at or tonumber(at) <= since then
      replace_limits(kind, 0, {}, woken_kinds)
    end
  end
end
wake_kinds(woken_kinds)
