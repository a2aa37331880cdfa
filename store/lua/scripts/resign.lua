#!lua flags=allow-oom
-- End the leadership of an incarnation, if it leads, and hint this to the others.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     incarnation
-- Reply    1 if it led, else 0
if leader_now()[1] ~= ARGV[1] then
  return 0
end
hint_all('l')
call('UNLINK', LEADER)
write_all()
return 1
