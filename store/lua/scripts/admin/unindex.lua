#!lua flags=allow-oom
-- Remove entries that are no ids from indexes.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     pairs of the key of an index and the entry
-- Reply    as write_set_aside in lib/aside.lua
for n = 1, #ARGV, 2 do
  if sub(ARGV[n], 1, #PREFIX) == PREFIX and call('ZREM', ARGV[n], ARGV[n + 1]) == 1 then
    count_stray(ARGV[n + 1], '', 'its entry in an index is no id and is removed')
  end
end
return write_set_aside()
