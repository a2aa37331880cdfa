#!lua flags=allow-oom
-- Make the candidate the leader if there is no leader, or extend the leadership that the candidate has.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, name, ttl, the candidate's time
-- Reply    the current leader, as in lib/schedule.lua; of another leader also the milliseconds until its leadership ends
local found = leader_now()
local ttl = math.ceil(tonumber(ARGV[3]) / 1000)
if found[1] and found[1] ~= ARGV[1] then
  -- If the server's clock stepped back, more than the ttl of the leader is left. Cut the rest to the ttl, so that a
  -- dead leader is replaced in time.
  local of_leader = whole_number(call('HGET', LEADER, 'ttl')) or ttl
  local left = call('PTTL', LEADER)
  if left > of_leader or left < 0 then
    call('PEXPIRE', LEADER, of_leader)
  end
  found[5] = call('PTTL', LEADER)
  return found
elseif not found[1] then
  -- A term, like a fence, is at least the server's time, so terms grow even if the server lost its last second of
  -- writes.
  local term = digits(max((highest_term('store') or 0) + 1, now))
  call('UNLINK', LEADER)
  call('HSET', TERMS, 'store', term)
  call('HSET', LEADER, 'incarnation', ARGV[1], 'name', ARGV[2], 'term', term, 'since', ARGV[4], 'ttl', ttl)
end
call('PEXPIRE', LEADER, ttl)
return leader_now()
