#!lua flags=allow-oom
-- Follow up ends of instances.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     limit of edges and children, default retention
-- Reply    {1 if more is left, else 0; set-aside instances}
local is_left = settle and settle(tonumber(ARGV[1]), tonumber(ARGV[2]), true)
return {is_left and 1 or 0, write_set_aside()}
