#!lua flags=allow-oom
-- Register the set of kinds for which an incarnation claims, part after part; each part may be sent again.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation, hash of the set in 16 digits, number of its kinds, "1" with the last part, the part
-- Reply    {the set's name, or "" for an incarnation that is dead; 1 when it is registered, so that no part is missing}.
--          After the last part, 0 tells that a server which lost its last second lost parts: all must be sent again.
local inc, hash, size, is_last = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local name, text = unpack(call('HMGET', node_key(inc), 'name', 'set'))
if not name then
  return {'', 0}
end

local before = set_named(text)
local set = before
if not before or sub(before, 2) ~= hash then
  -- each index costs every change of a head that it has, so there are not many; some are kept for very large sets
  local most = size > 500 and 32 or 16
  local letter = size <= MAX_SMALL and 's' or 'x'
  if letter == 'x' and not call('HGET', SETS, 'x' .. hash) and tonumber(call('GET', INDEXED) or 0) >= most then
    letter = 'u'
  end
  set = letter .. hash
end
local linked = call('HGET', SETS, set)
if before and before ~= set then
  no_longer_idle(inc)
  write_all()
  leave_set(inc, before)
end
call('SADD', users_key(set), inc)
call('SREM', UNUSED, set)
if not linked then
  call('HSET', SETS, set, '')
  if sub(set, 1, 1) == 'x' then
    call('INCR', INDEXED)
  end
end
if linked ~= '1' then
  local kinds = {}
  for n = 5, #ARGV do
    kinds[n - 4] = ARGV[n]
  end
  link_kinds(set, kinds)
  if is_last and call('SCARD', set_key(set)) == size then
    call('HSET', SETS, set, '1')
    linked = '1'
  end
end
call('HSET', node_key(inc), 'set', linked == '1' and set or '?' .. set)
return {set, linked == '1' and 1 or 0}
