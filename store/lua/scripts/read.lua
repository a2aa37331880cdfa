#!lua flags=no-writes
-- Records by id, as they are stored.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     ids
-- Reply    per id: the record or nil, its spec or nil
local keys = {}
for n, id in ipairs(ARGV) do
  keys[2 * n - 1], keys[2 * n] = record_key(id), spec_key(id)
end
return call('MGET', unpack(keys))
