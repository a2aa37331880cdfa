-- The end of an incarnation, and taking its claims back. An entry in DEAD starts with how it ended: L left in order,
-- D died, S died while a suspect ran (in lower case when the process turned out to live); then a space and the
-- node's name. The entry stays until no claim is left; for an hour more, longer than any call is repeated, the requests
-- of the incarnation tell that it ended, so that a join that comes late does not bring it back.
local CHARGED_MS = 86400000
local REQUESTS_MS = 3600000

-- Read what the end of an incarnation needs; answers its entry in DEAD.
local function ending(inc, in_order)
  local how = in_order and 'L' or 'D'
  call('HLEN', requests_key(inc))
  if not in_order then
    for _, claim in ipairs(call('HVALS', owned_key(inc))) do
      if has_flag(claim, 's') and has_flag(claim, 'q') and not has_flag(claim, 'r') then
        how = 'S'
        break
      end
    end
  end
  return how .. ' ' .. (call('HGET', node_key(inc), 'name') or '')
end

local function mark_dead(inc, entry_text)
  local set = set_named(call('HGET', node_key(inc), 'set'))
  call('ZREM', LEASES, inc)
  no_longer_idle(inc)
  if set then
    leave_set(inc, set)
  end
  call('UNLINK', node_key(inc), wake_key(inc))
  call('HSET', requests_key(inc), 'ended', entry_text)
  call('PEXPIRE', requests_key(inc), REQUESTS_MS)
  call('HSET', DEAD, inc, entry_text)
end

-- Plan to take back up to `most` claims; answers {id, kind, state} of each, and whether that was all.
local function take_back(inc, how, most, node, retention)
  local owned = owned_key(inc)
  local left = call('HLEN', owned)
  local ids, claims = {}, {}
  local at = '0'
  repeat
    local found = call('HSCAN', owned, at, 'COUNT', most)
    at = found[1]
    for n = 1, #found[2], 2 do
      if #ids < most then
        ids[#ids + 1], claims[#claims + 1] = found[2][n], found[2][n + 1]
      end
    end
  until at == '0' or #ids >= most
  local taken = {}
  call('SCARD', charged_key(inc))
  if #ids == 0 then
    return taken, true
  end
  local keys = {}
  for n, id in ipairs(ids) do
    keys[n] = record_key(id)
  end
  local raws = call('MGET', unpack(keys))
  for n, id in ipairs(ids) do
    local r, claim = decode(raws[n]), claims[n]
    if not r then
      end_claim(inc, id, r, nil)
      set_aside(id, '', raws[n] and 'unreadable record' or 'claimed without a record')
    elseif r.releasing and has_flag(claim, 'r') or r.state == PROCESSING and r.owner == inc then
      local to = {state = SCHEDULED, due = r.due, node = node, retention = retention,
        note = how == 'L' and 'handed back' or 'node lost'}
      if not r.releasing then
        r.attempts = r.attempts - 1
        local charge = string.upper(how)
        if charge == 'D' or charge == 'S' and has_flag(claim, 'q') then
          if charge == how and has_flag(claim, 's') then
            r.crashes = r.crashes + 1
            add('SADD', charged_key(inc), id)
          else
            r.losses = r.losses + 1
          end
        end
        if r.crashes > r.max_crashes then
          to.state, to.note = TERMINATED, 'poison'
        end
        changed(id)
      end
      end_claim(inc, id, r, to)
      set(record_key(id), encode(r))
      taken[#taken + 1] = {id, r.kind, r.state}
    else
      end_claim(inc, id, r, nil)
    end
  end
  return taken, left <= #ids
end
