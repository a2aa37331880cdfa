#!lua flags=allow-oom
-- Take ids without a record out of the index of a tag: a record that could not be read did not tell its tags.
--
-- KEYS     the namespace's prefix, its layout
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
