#!lua flags=allow-oom
-- Change instances from Scheduled or Processing to Cancelled. A node that runs a cancelled instance keeps the claim,
-- marked as releasing, and the instance keeps its unique key until the body ends.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     node name, request, default retention, ids
-- Reply    {set-aside instances, then per id its earlier state, 0 if the id is unknown}
local ANSWER_MS = 600000
local node, request, retention = ARGV[1], ARGV[2], tonumber(ARGV[3])
local answer = call('GET', cancelled_key(request))
if answer then
  local reply = {{}}
  for state in string.gmatch(answer, '%d+') do
    reply[#reply + 1] = STATES[tonumber(state)] and tonumber(state) or 0
  end
  if #reply == #ARGV - 2 then
    return reply
  end
end

local keys = {}
for n = 4, #ARGV do
  keys[n - 3] = record_key(ARGV[n])
end
local states, finals, known = {}, {}, {}
for n, raw in ipairs(call('MGET', unpack(keys))) do
  local id = ARGV[n + 3]
  if not known[id] then
    local record = decode(raw)
    known[id] = record and record.state or 0
    if raw and not record then
      set_aside(id, '', 'unreadable record')
    elseif record and not is_final(record.state) then
      cancel(record, id, node, 'cancelled by user', retention)
      finals[#finals + 1] = id
    end
  end
  states[n] = known[id]
end
hint_end(finals)
pass_slots_and_wake()

call('SET', cancelled_key(request), table.concat(states, ','), 'PX', ANSWER_MS)
write_all()
if settle then
  settle(MAX_SETTLED, retention)
end
return {write_set_aside(), unpack(states)}
