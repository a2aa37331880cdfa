#!lua flags=allow-oom
-- Mark incarnations dead whose lease has expired, and take back up to `limit` claims of dead incarnations. A reaper
-- that renewed late marks none, since an outage can have delayed every renewal.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     limit, incarnation of the reaper, default retention, limit of final instances per kind
-- Reply    {set-aside instances, then per claim: id, kind, state, name of the node that died}
local limit, reaper = tonumber(ARGV[1]), ARGV[2]
if shorten_future_leases(1) then
  shorten_future_leases(1000)
end
local expired = call('ZRANGE', LEASES, '-inf', '(' .. digits(now), 'BYSCORE', 'LIMIT', 0, 100, 'WITHSCORES')
local endings, dead = {}, call('HGETALL', DEAD)
if #expired == 0 and #dead == 0 then
  return {{}}
end
local by = text_or(call('HGET', node_key(reaper), 'name'), reaper)
for n = 1, #expired, 2 do
  local incarnation = expired[n]
  if may_mark_dead(reaper, incarnation, tonumber(expired[n + 1])) then
    endings[incarnation] = ending(incarnation, false)
    dead[#dead + 1], dead[#dead + 2] = incarnation, endings[incarnation]
  end
end

local reply, emptied = {{}}, {}
for n = 1, #dead, 2 do
  local incarnation, how, name = dead[n], sub(dead[n + 1], 1, 1), text_or(sub(dead[n + 1], 3), '')
  if limit > 0 then
    local taken, all = take_back(incarnation, how, limit, by, tonumber(ARGV[3]))
    limit = limit - #taken
    for _, one in ipairs(taken) do
      local size = #reply
      reply[size + 1], reply[size + 2], reply[size + 3], reply[size + 4] = one[1], one[2], one[3], name
    end
    if all then
      emptied[#emptied + 1] = incarnation
    end
  end
end
after_claims(tonumber(ARGV[4]))

for incarnation, text in pairs(endings) do
  mark_dead(incarnation, text)
end
for _, incarnation in ipairs(emptied) do
  call('HDEL', DEAD, incarnation)
end
write_all()
if settle then
  settle(MAX_SETTLED, tonumber(ARGV[3]), false, reaper)
end
for n = 1, #dead, 2 do
  call('PEXPIRE', charged_key(dead[n]), CHARGED_MS)
end
reply[1] = write_set_aside()
return reply
