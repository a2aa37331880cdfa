#!lua flags=allow-oom
-- Have an incarnation hinted when instances end, and read them in the same step.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, ids
-- Reply    per id: the record or nil, its spec or nil
local inc, keys = ARGV[1], {}
for n = 2, #ARGV do
  keys[2 * n - 3], keys[2 * n - 2] = record_key(ARGV[n]), spec_key(ARGV[n])
end
local found = call('MGET', unpack(keys))
local ids = {unpack(ARGV, 2)}
local known = call('HMGET', WATCHED, unpack(ids))
for n, id in ipairs(ids) do
  local raw = found[2 * n - 1]
  if raw and not is_final(byte(raw, 2) or CANCELLED) then
    local watching = known[n] or ''
    if not find('\n' .. watching, '\n' .. inc .. '\n', 1, true) then
      call('HSET', WATCHED, id, watching .. inc .. '\n')
    end
  end
end
return found
