#!lua flags=allow-oom
-- Write something, so that a WAIT behind it speaks of everything that was written before; see durability.py.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     -
-- Reply    1
call('SET', CONFIRMED, 1, 'EX', 60)
return 1
