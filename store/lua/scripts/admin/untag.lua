#!lua flags=allow-oom
-- Remove ids without a record from the index of a tag. An unreadable record does not show the tags, so the script that
-- set the record aside left the ids in the index.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
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
