#!lua flags=allow-oom
-- Give the leadership up if it is this incarnation's, and hint the others.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     incarnation
-- Reply    1 if it was, else 0
if leader_now()[1] ~= ARGV[1] then
  return 0
end
hint_all('l')
call('UNLINK', LEADER)
write_all()
bound_hints()
return 1
