#!lua flags=allow-oom
-- Let instances pass that wait for some of the keys of a kind, because the kind has another concurrency of its keys.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind, cursor ("0" to begin), number of keys to look at
-- Reply    next cursor, which is the same one if more instances can pass; and whether this was the last page
local NONE = pack('>I4', 0)
local found, keys, was_cut = call('HSCAN', kind_key('n', ARGV[1]), ARGV[2], 'COUNT', ARGV[3]), {}, false
for n = 1, #found[2], 2 do
  keys[#keys + 1] = sub(found[2][n + 1], 9, 12) ~= NONE and found[2][n] or nil
end
if gates and keys[1] then
  was_cut = pass_kind(ARGV[1], keys)
  wake_for_new_work()
  write_all()
end
return {was_cut and ARGV[2] or found[1], not was_cut and found[1] == '0' and 1 or 0}
