#!lua flags=no-writes
-- Read which of some instances of a kind are admitted with a key.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind, key, cursor ("0" to begin), number of instances to look at
-- Reply    {next cursor ("0" at the end), ids}
local found = call('HSCAN', kind_key('g', ARGV[1]), ARGV[3], 'COUNT', ARGV[4])
local reply = {found[1]}
for n = 1, gates and #found[2] or 0, 2 do
  local letter, _, _, key = parsed_entry(found[2][n + 1])
  if letter == 'q' and key == ARGV[2] then
    reply[#reply + 1] = found[2][n]
  end
end
return reply
