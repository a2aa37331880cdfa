#!lua flags=allow-oom
-- Let instances pass that wait for some of the keys of a kind, because the kind has another concurrency of its keys.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind, cursor ("0" to begin), number of keys to look at
-- Reply    next cursor ("0" at the end)
local NONE = pack('>I4', 0)
local found, keys = call('HSCAN', kind_key('n', ARGV[1]), ARGV[2], 'COUNT', ARGV[3]), {}
for n = 1, #found[2], 2 do
  keys[#keys + 1] = sub(found[2][n + 1], 9, 12) ~= NONE and found[2][n] or nil
end
if gates and keys[1] then
  pass_kind(ARGV[1], keys)
  wake_for_new_work()
  write_all()
end
return found[1]
