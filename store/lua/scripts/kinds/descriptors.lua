#!lua flags=no-writes
-- Read the descriptors of some kinds.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     how long a kind is kept, then at most 500 kinds
-- Reply    per kind: its descriptors as publish_descriptors.lua stores them, or ""
local since, reply = now - tonumber(ARGV[1]), {}
for n = 2, #ARGV do
  local at = call('ZSCORE', CATALOGUE, ARGV[n])
  reply[n - 1] = at and tonumber(at) > since and call('HGET', DESCRIPTORS, ARGV[n]) or ''
end
return reply
