#!lua flags=allow-oom
-- Register the set of kinds for which an incarnation claims, in parts. Each part can be sent again without harm.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, hash of the set in 16 digits, number of its kinds, "1" with the last part, the part
-- Reply    {the name of the set, or "" if the incarnation is dead; 1 if the set is complete}. After the last part, 0
--          means that the server lost parts with its last second of writes: the caller must send all parts again
local incarnation, hash, size, is_last = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local name, text = unpack(call('HMGET', node_key(incarnation), 'name', 'set'))
if not name then
  return {'', 0}
end

local before = set_named(text)
local set = before
if not before or sub(before, 2) ~= hash then
  -- Each change of the head of a queue updates every index that has the queue, so the number of indexes is limited.
  -- Sets of more than 500 kinds have a higher limit.
  local max_indexes = size > 500 and 32 or 16
  local letter = size <= MAX_SMALL and 's' or 'x'
  if letter == 'x' and not call('HGET', SETS, 'x' .. hash) and number_of_indexes() >= max_indexes then
    letter = 'u'
  end
  set = letter .. hash
end
local linked = call('HGET', SETS, set)
if before and before ~= set then
  remove_idle(incarnation)
  write_all()
  leave_set(incarnation, before)
end
call('SADD', users_key(set), incarnation)
call('SREM', UNUSED, set)
if not linked then
  number_of_indexes()
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
call('HSET', node_key(incarnation), 'set', linked == '1' and set or '?' .. set)
return {set, linked == '1' and 1 or 0}
