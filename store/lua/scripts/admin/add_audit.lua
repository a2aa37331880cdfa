#!lua flags=allow-oom
-- Append records to the audit log, and drop the oldest above its limit.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     the maximum of records, then at most 500 records
-- Reply    1
call('RPUSH', AUDIT, unpack(ARGV, 2))
call('LTRIM', AUDIT, -tonumber(ARGV[1]), -1)
return 1
