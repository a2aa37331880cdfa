#!lua flags=allow-oom
-- Raise the layout of the namespace, if it is lower. `flows` shows the layout if the key of the layout is lost.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     layout
-- Reply    names of live nodes that do not read the layout
local refusing = raise_layout(ARGV[1])
if not refusing[1] and ARGV[1] == FLOWS_LAYOUT then
  call('SET', FLOWS, '1')
end
return refusing
