#!lua flags=allow-oom
-- Replace or remove the setting of a shared limit, or of the keys of a kind.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     name of the limit or "", kind or "", concurrency, period, burst (all 0: remove the setting), note
-- Reply    {1 if the setting is stored or removed, else 0; names of live nodes that do not read the layout of limits}
local name, kind, note = ARGV[1], ARGV[2], ARGV[6]
local numbers = {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])}
local removes = numbers[1] + numbers[2] + numbers[3] == 0
local limit, rule = read_limit(name), read_rule(kind)
local has_setting, is_known = limit.set ~= nil, limit.kinds[1] ~= nil
if kind ~= '' then
  has_setting, is_known = rule.by_setting > 0, rule.by_code > 0
end
if not has_setting and (removes or not is_known) then
  return {0, {}}
end
local refusing = raise_layout(LIMITS_LAYOUT)
if refusing[1] then
  return {0, refusing}
end
if kind ~= '' then
  rule.by_setting = numbers[1]
  write_rule(kind, rule)
  set_limit_field('s' .. kind, not removes and note or nil)
else
  limit.set, limit.note = not removes and numbers or nil, removes and '' or note
  if write_limit(name, limit) then
    wake_kinds(limit.kinds)
  end
end
return {1, {}}
