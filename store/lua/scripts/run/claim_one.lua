#!lua flags=allow-oom
-- Do the common case of claim.lua at half the cost: claim the only instance that is due, or find that none is due. If
-- the case is another one, the script does nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     as in claim.lua, for a small set of kinds, for one instance that is no suspect, and to register as idle
-- Reply    {"more"}: nothing was done, use claim.lua; or as in claim.lua
local incarnation, command, request, set_name = ARGV[1], ARGV[2], ARGV[3], ARGV[7]
local owned, requests = owned_key(incarnation), requests_key(incarnation)
local name, registered = unpack(call('HMGET', node_key(incarnation), 'name', 'set'))
local answered = call('HGET', requests, command)
-- 1. A request that is the last one, or an earlier one, is for claim.lua.
if not name or registered ~= set_name or has_indexes or has_watchers
  or answered and (request < answered or sub(answered, 1, #request + 1) == request .. '\n') then
  return {'more'}
end
name = text_or(name, incarnation)
-- 2. So is an instance that has fallen due.
local next_due = earliest_due()
if next_due and next_due <= now then
  return {'more'}
end

-- 3. Select the only instance that is due. One of a kind that is paused, full, or has a rate is for
-- claim.lua.
local kind, member = nil, nil
for n = 9, #ARGV, 2 do
  local first = (ARGV[n] ~= FLOW_KIND or layout == FLOWS_LAYOUT) and call('ZRANGE', ready_key(ARGV[n]), 0, 1) or {}
  if first[2] or first[1] and member or tonumber(ARGV[n + 1]) <= 0 or first[1] and shared and not shared.is_simple(ARGV[n]) then
    return {'more'}
  elseif first[1] then
    kind, member = ARGV[n], first[1]
  end
end

local idle = call('HGET', IDLE, incarnation)
if not member then
  if idle ~= set_name then
    return {'more'}
  end
  call('HSET', requests, command, kept_answer(request, digits(next_due or 0), '', ''))
  return {'ok', now, next_due or 0, {}, {}, {}}
end

-- 4. Take it.
local id = sub(member, 17)
local stored = call('MGET', record_key(id), spec_key(id))
local usual = claimed(stored[1], kind, incarnation, name)
if not usual or usual.tags or not stored[2] then
  return {'more'}
end
-- A key of a wrong type must cause an error before the first write.
local from, to = index_key(SCHEDULED, kind), index_key(PROCESSING, kind)
call('HLEN', owned)
call('ZINTERCARD', 3, PREFIX, from, to)
call('SET', record_key(id), usual.text)
call('ZREM', ready_key(kind), member)
call('ZREM', from, id)
call('ZADD', to, 0, id)
local fence = digits(usual.fence)
call('HSET', owned, id, claim_entry(fence, ''))
if idle then
  call('SREM', idle_key(sub(idle, 1, SET_SIZE)), incarnation)
  call('HDEL', IDLE, incarnation)
end
call('HSET', requests, command, kept_answer(request, '0', id, '\n' .. fence))
return {'ok', now, 0, {}, {},
  {kind, usual.fence, usual.priority, usual.due, usual.attempts, usual.crashes, usual.losses}, id, stored[2], 1}
