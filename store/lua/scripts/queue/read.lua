#!lua flags=no-writes
-- Read records by id, as they are stored, until the reply has the given number of bytes.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     bytes after which the reply ends, ids
-- Reply    per id, until the reply ends: the record or nil, its spec or nil
local reply = {}
read_payloads({unpack(ARGV, 2)}, true, tonumber(ARGV[1]), function(n, raw, spec)
  reply[2 * n - 1], reply[2 * n] = raw, spec
end)
return reply
