#!lua flags=allow-oom
-- Prepare the namespace for the first instances with keys, of kinds whose limits no node has published.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kinds
-- Reply    names of live nodes that do not read the layout of limits
local refusing = raise_layout(LIMITS_LAYOUT)
for n = 1, refusing[1] and 0 or #ARGV do
  set_limit_field('g' .. ARGV[n], '')
end
return refusing
