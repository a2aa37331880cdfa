-- The end of an incarnation, and taking its claims back. An entry in DEAD starts with how it ended: L left in order,
-- D died, S died while a suspect ran (in lower case when the process turned out to live); then a space and the
-- node's name. The entry stays until no claim is left.
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
  call('ZREM', LEASES, inc)
  no_longer_idle(inc)
  call('UNLINK', node_key(inc), wake_key(inc))
  call('PEXPIRE', requests_key(inc), REQUESTS_MS)
  call('HSET', DEAD, inc, entry_text)
end

-- Plan to take back up to `most` claims; answers {id, kind, state} of each, and whether that was all.
local function take_back(inc, how, most, node, counts)
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
    add('HDEL', owned, id)
    if not r then
      set_aside(id, '', raws[n] and 'unreadable record' or 'claimed without a record')
    elseif has_flag(claim, 'r') then
      release(r, id, counts.retention)
      set(record_key(id), encode(r))
      taken[#taken + 1] = {id, r.kind, r.state}
    elseif r.state == PROCESSING and r.owner == inc then
      r.attempts = r.attempts - 1
      local note = how == 'L' and 'handed back' or 'node lost'
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
        finish(r, id, TERMINATED, node, 'poison', counts.retention)
        set_free(r, id)
        counts.finals[#counts.finals + 1] = id
        counts.final_kinds[r.kind] = (counts.final_kinds[r.kind] or 0) + 1
      else
        put_back(r, id, r.due, node, note)
        counts.back[r.kind] = (counts.back[r.kind] or 0) + 1
      end
      set(record_key(id), encode(r))
      changed(id)
      taken[#taken + 1] = {id, r.kind, r.state}
    end
  end
  return taken, left <= #ids
end

local function new_counts(retention)
  return {retention = retention, finals = {}, final_kinds = {}, back = {}}
end

-- Who must hear of it, and what retention removes for it.
local function after_taking_back(counts, max_final)
  ended(counts.finals)
  for kind, added in pairs(counts.final_kinds) do
    remove_expired(kind, added, 2 * added, max_final)
  end
  for kind, wanted in pairs(counts.back) do
    wake(kind, wanted)
  end
  settle_slots()
end
