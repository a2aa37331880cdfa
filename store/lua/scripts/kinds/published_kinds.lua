#!lua flags=no-writes
-- Tell which of some kinds are in the catalogue.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     how long a kind is kept, then at most 500 kinds
-- Reply    per kind: 1 or 0
local since, reply = now - tonumber(ARGV[1]), {}
for n = 2, #ARGV do
  local at = call('ZSCORE', CATALOGUE, ARGV[n])
  reply[n - 1] = at and tonumber(at) > since and 1 or 0
end
return reply
