#!lua flags=allow-oom
-- Pause or resume a kind.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind, "1" to pause or "0" to resume, note
-- Reply    names of live nodes that do not read the layout of limits
local kind, paused, rule = ARGV[1], ARGV[2], read_rule(ARGV[1])
if paused == '1' then
  local refusing = raise_layout(LIMITS_LAYOUT)
  if refusing[1] then
    return refusing
  end
end
rule.paused = paused
if write_rule(kind, rule) then
  wake_kinds({kind})
end
set_limit_field('p' .. kind, paused == '1' and ARGV[3] ~= '' and ARGV[3] or nil)
return {}
