#!lua flags=allow-oom
-- Mark incarnations dead whose lease expired, and take back up to `limit` claims of dead ones. Only who renewed in time
-- itself marks any.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     limit, incarnation of the reaper, default retention, most final instances per kind
-- Reply    {what was set aside, then per claim: id, kind, state, name of the node that died}
local limit, reaper = tonumber(ARGV[1]), ARGV[2]
if count_from_now(1) then
  count_from_now(1000)
end
local expired = call('ZRANGE', LEASES, '-inf', '(' .. digits(now), 'BYSCORE', 'LIMIT', 0, 100, 'WITHSCORES')
local endings, dead = {}, call('HGETALL', DEAD)
if #expired == 0 and #dead == 0 then
  return {{}}
end
local by = call('HGET', node_key(reaper), 'name') or reaper
for n = 1, #expired, 2 do
  local inc = expired[n]
  if may_judge(reaper, inc, tonumber(expired[n + 1])) then
    endings[inc] = ending(inc, false)
    dead[#dead + 1], dead[#dead + 2] = inc, endings[inc]
  end
end

local reply, emptied = {{}}, {}
for n = 1, #dead, 2 do
  local inc, how, name = dead[n], sub(dead[n + 1], 1, 1), sub(dead[n + 1], 3)
  if limit > 0 then
    local taken, all = take_back(inc, how, limit, by, tonumber(ARGV[3]))
    limit = limit - #taken
    for _, one in ipairs(taken) do
      local size = #reply
      reply[size + 1], reply[size + 2], reply[size + 3], reply[size + 4] = one[1], one[2], one[3], name
    end
    if all then
      emptied[#emptied + 1] = inc
    end
  end
end
after_claims(tonumber(ARGV[4]))

for inc, text in pairs(endings) do
  mark_dead(inc, text)
end
for _, inc in ipairs(emptied) do
  call('HDEL', DEAD, inc)
end
write_all()
for n = 1, #dead, 2 do
  call('PEXPIRE', charged_key(dead[n]), CHARGED_MS)
end
bound_hints()
reply[1] = put_aside()
return reply
