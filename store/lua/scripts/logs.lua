#!lua flags=no-writes
-- Log lines of one instance.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     id, number of the first line wanted, limit
-- Reply    {lines dropped at the cap, number of the next line, the lines}
local id, from = ARGV[1], tonumber(ARGV[2])
local r = decode(call('MGET', record_key(id))[1])
local kept = call('LLEN', logs_key(id))
local dropped = r and max(r.log_total - kept, 0) or 0
from = max(from, dropped)
local lines = call('LRANGE', logs_key(id), from - dropped, from - dropped + tonumber(ARGV[3]) - 1)
return {digits(dropped), digits(from + #lines), lines}
