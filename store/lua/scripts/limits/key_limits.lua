#!lua flags=no-writes
-- Read some keys of a kind, in no order.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     kind, cursor ("0" to begin), number of keys to look at, beginning of the keys, "1" for keys with waiting ones only
-- Reply    {next cursor ("0" at the end), number of unfinished instances without a key; per key: key, concurrency,
--          number of admitted and of waiting instances}
local kind = ARGV[1]
local rule, found = read_rule(kind), call('HSCAN', kind_key('n', kind), ARGV[2], 'COUNT', ARGV[3])
local unfinished = call('ZCARD', index_key(SCHEDULED, kind)) + call('ZCARD', index_key(PROCESSING, kind))
  + call('SCARD', releasing_key(kind))
local reply = {found[1], max(0, unfinished - call('HLEN', kind_key('g', kind)))}
for n = 1, #found[2], 2 do
  local is_whole, admitted, concurrency, waiting = pcall(unpack_text, '>I4I4I4', found[2][n + 1])
  if is_whole and sub(found[2][n], 1, #ARGV[4]) == ARGV[4] and (ARGV[5] ~= '1' or waiting > 0) then
    local size = #reply
    reply[size + 1], reply[size + 2] = found[2][n], rule.by_setting > 0 and rule.by_setting or concurrency
    -- the first byte says whether the entry has waiting instances
    reply[size + 3], reply[size + 4] = admitted % 2 ^ 24, waiting
  end
end
return reply
