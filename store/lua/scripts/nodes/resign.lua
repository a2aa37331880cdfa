#!lua flags=allow-oom
-- End the leadership of an incarnation, if the incarnation leads, and send a hint to every live node.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation
-- Reply    1 if the incarnation led, else 0
if leader_now()[1] ~= ARGV[1] then
  return 0
end
hint_all('l')
call('UNLINK', LEADER)
write_all()
return 1
