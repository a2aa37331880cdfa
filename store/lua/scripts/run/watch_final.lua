#!lua flags=allow-oom
-- Register an incarnation for a hint when instances end, and read the ended ones in one transaction, so that no end is
-- missed.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, bytes after which the reply has no more records, ids
-- Reply    {the state of each id, 0 if unknown; then per final instance, until the bytes are used: the record, its spec
--          or nil}
local incarnation, ids = ARGV[1], {unpack(ARGV, 3)}
local states, final = {}, {}
local known = call('HMGET', WATCHED, unpack(ids))
-- Drop incarnations that no longer live. Otherwise an instance that ends late would keep the name of every incarnation
-- that ever watched the instance.
local lives = {[incarnation] = true}
local function living(watching)
  return (string.gsub(watching, '([^\n]+)\n', function(other)
    if lives[other] == nil then
      lives[other] = call('ZSCORE', LEASES, other) ~= false
    end
    return not lives[other] and '' or nil
  end))
end
for n, id in ipairs(ids) do
  local raw = redis.pcall('GETRANGE', record_key(id), 1, 1)
  states[n] = type(raw) == 'string' and byte(raw) or 0
  if states[n] ~= 0 and not is_final(states[n]) then
    local watching = living(known[n] or '')
    if not find('\n' .. watching, '\n' .. incarnation .. '\n', 1, true) then
      watching = watching .. incarnation .. '\n'
    end
    if watching ~= known[n] then
      add_pair('HSET', WATCHED, id, watching)
    end
  elseif states[n] ~= 0 then
    final[#final + 1] = id
  end
end
write_all()
local reply = {states}
read_payloads(final, true, tonumber(ARGV[2]), function(n, raw, spec)
  reply[2 * n], reply[2 * n + 1] = raw, spec
end)
return reply
