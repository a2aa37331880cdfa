#!lua flags=allow-oom
-- Always write, so that a WAIT behind this script covers all earlier writes; see durability.py.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     none
-- Reply    1
call('SET', CONFIRMED, 1, 'EX', 60)
return 1
