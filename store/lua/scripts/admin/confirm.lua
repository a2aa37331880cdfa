#!lua flags=allow-oom
-- Always write a key, so that a WAIT after the script covers all earlier writes. durability.py gives the reason.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     none
-- Reply    1
call('SET', CONFIRMED, 1, 'EX', 60)
return 1
