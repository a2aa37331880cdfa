#!lua flags=no-writes
-- Read the latest records of the audit log.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     the maximum of records
-- Reply    the records, the oldest first
return call('LRANGE', AUDIT, -tonumber(ARGV[1]), -1)
