#!lua flags=no-writes
-- List the incarnations whose lease has not expired. The reply has no NodeInfo, which is long and rarely changes:
-- node_commands.py keeps a copy of each.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     none
-- Reply    per incarnation: incarnation, time of its NodeInfo, running, renewed, expires
local reply = {}
local alive = call('ZRANGE', LEASES, now, '+inf', 'BYSCORE', 'WITHSCORES')
for n = 1, #alive, 2 do
  local found = call('HMGET', node_key(alive[n]), 'shown', 'running', 'renewed')
  if found[1] then
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = alive[n], found[1], found[2] or '0'
    reply[size + 4], reply[size + 5] = found[3] or '0', digits(tonumber(alive[n + 1]))
  end
end
return reply
