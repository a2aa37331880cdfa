#!lua flags=no-writes
-- Records by id, as they are stored, as many as fit.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     bytes after which the reply ends, ids
-- Reply    per id, until the reply ends: the record or nil, its spec or nil
local reply = {}
read_payloads({unpack(ARGV, 2)}, true, tonumber(ARGV[1]), function(n, raw, spec)
  reply[2 * n - 1], reply[2 * n] = raw, spec
end)
return reply
