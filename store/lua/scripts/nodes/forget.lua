#!lua flags=allow-oom
-- Forget a part of a set of kinds that no node uses any more. The caller repeats the script until the reply is 0.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     limit
-- Reply    1 if the caller must repeat the script, else 0
local set = call('SRANDMEMBER', UNUSED)
if not set then
  return 0
end
if call('HGET', SETS, set) == '1' then
  -- Mark the set as incomplete: a node that registers the set again must send all of its kinds.
  call('HSET', SETS, set, '')
  call('UNLINK', heads_key(set, false), heads_key(set, true))
end
local kinds = call('SPOP', set_key(set), ARGV[1])
unlink_kinds(set, kinds)
if #kinds == 0 then
  local is_indexed = sub(set, 1, 1) == 'x' and call('HGET', SETS, set) and number_of_indexes() > 0
  if is_indexed and call('DECR', INDEXED) <= 0 then
    call('UNLINK', INDEXED)
  end
  call('HDEL', SETS, set)
  call('SREM', UNUSED, set)
  call('UNLINK', heads_key(set, false), heads_key(set, true), idle_key(set))
end
return 1
