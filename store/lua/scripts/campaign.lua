#!lua flags=allow-oom
-- Take the leadership if it is free, or keep the candidate's own.
--
-- KEYS     the prefix of the namespace, its layout
-- ARGV     incarnation, name, ttl, the candidate's time
-- Reply    the current leader, as in lib/schedule.lua
local found = leader_now()
local ttl = math.ceil(tonumber(ARGV[3]) / 1000)
if found[1] and found[1] ~= ARGV[1] then
  -- if the clock of the server stepped back, more than the ttl is left
  local of_leader = tonumber(call('HGET', LEADER, 'ttl') or ttl)
  if call('PTTL', LEADER) > of_leader then
    call('PEXPIRE', LEADER, of_leader)
  end
  return found
elseif not found[1] then
  -- like fences, terms grow even if the server lost its last second
  local term = digits(max(tonumber(call('HGET', TERMS, 'store') or '0') + 1, now))
  call('HSET', TERMS, 'store', term)
  call('HSET', LEADER, 'incarnation', ARGV[1], 'name', ARGV[2], 'term', term, 'since', ARGV[4], 'ttl', ttl)
end
call('PEXPIRE', LEADER, ttl)
return leader_now()
