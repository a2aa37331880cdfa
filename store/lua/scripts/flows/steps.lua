#!lua flags=no-writes
-- Read steps and signals of an instance. If all of them are larger than one reply, the reply has only the names, and the
-- caller reads some names a call.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     id, bytes after which the reply ends, names (none: all)
-- Reply    {1, then name and value of each of the first names, at least of one}; or {0, the names}
local MAX_NAMES = 1000000
local names, reply, size = {unpack(ARGV, 3)}, {1}, 0
local is_all = not names[1]
if is_all then
  names = call('HRANDFIELD', steps_key(ARGV[1]), MAX_NAMES)
end
for n, name in ipairs(names) do
  if size > tonumber(ARGV[2]) then
    if is_all then
      table.insert(names, 1, 0)
    end
    return is_all and names or reply
  end
  local value = call('HGET', steps_key(ARGV[1]), name)
  if value then
    reply[#reply + 1], reply[#reply + 2], size = name, value, size + #name + #value
  end
end
return reply
