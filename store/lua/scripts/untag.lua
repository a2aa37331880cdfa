#!lua flags=allow-oom
-- Remove ids without a record from the index of a tag: an unreadable record does not tell its tags.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     tag, ids
-- Reply    1
local ids = {unpack(ARGV, 2)}
for _, id in ipairs(ids) do
  if call('EXISTS', record_key(id)) == 0 then
    add('ZREM', tag_key(ARGV[1]), id)
  end
end
write_all()
return 1
