#!lua flags=allow-oom
-- Scheduled or Processing -> Cancelled. A running one stays in its holder's hands as releasing, with its unique key.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     node name, request, default retention, ids
-- Reply    {what was set aside, per id the state it was in (0: unknown)}
local ANSWER_MS = 600000
local node, request, retention = ARGV[1], ARGV[2], tonumber(ARGV[3])
local answer = call('GET', cancelled_key(request))
if answer then
  local reply = {{}}
  for state in string.gmatch(answer, '%d+') do
    reply[#reply + 1] = tonumber(state)
  end
  return reply
end

local keys = {}
for n = 4, #ARGV do
  keys[n - 3] = record_key(ARGV[n])
end
local states, finals, seen = {}, {}, {}
for n, raw in ipairs(call('MGET', unpack(keys))) do
  local id = ARGV[n + 3]
  local r = seen[id] or decode(raw)
  states[n] = r and r.state or 0
  if raw and not r then
    set_aside(id, '', 'unreadable record')
  elseif r and not is_final(r.state) then
    cancel(r, id, node, 'cancelled by user', retention)
    finals[#finals + 1] = id
    seen[id] = r
  end
end
ended(finals)
settle_slots()
wake_for_entered()

call('SET', cancelled_key(request), table.concat(states, ','), 'PX', ANSWER_MS)
write_all()
bound_hints()
return {put_aside(), unpack(states)}
