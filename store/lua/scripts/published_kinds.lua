#!lua flags=no-writes
-- Which kinds the catalogue has.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     how long a kind is kept, then at most 500 kinds
-- Reply    per kind: 1 or 0
local since, reply = now - tonumber(ARGV[1]), {}
for n = 2, #ARGV do
  local at = call('ZSCORE', CATALOGUE, ARGV[n])
  reply[n - 1] = at and tonumber(at) > since and 1 or 0
end
return reply
