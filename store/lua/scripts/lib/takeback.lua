-- The end of an incarnation, and the return of its claims.
-- An entry in DEAD starts with a letter: L left in order, D died, S died while a suspect ran. The letter is in lower
-- case if the process later proved to be alive. A space and the name of the node follow.
-- The entry stays until no claim is left. The field `ended` in the requests of the incarnation prevents that a late
-- join adds the incarnation again. The field stays for an hour, longer than any call is repeated.
local CHARGED_MS = 86400000
local REQUESTS_MS = 3600000

-- Return the entry in DEAD of an incarnation that ends now.
local function ending(incarnation, in_order)
  local how = in_order and 'L' or 'D'
  call('HLEN', requests_key(incarnation))
  call('ZCARD', CHANGES)
  if not are_whole(owned_key(incarnation)) then
    mend_claims(incarnation)
  end
  if not in_order then
    for _, claim in ipairs(call('HVALS', owned_key(incarnation))) do
      local _, flags = claim_parts(claim)
      if has_flag(flags, 's') and has_flag(flags, 'q') then
        how = 'S'
        break
      end
    end
  end
  return how .. ' ' .. text_or(call('HGET', node_key(incarnation), 'name'), '')
end

local function mark_dead(incarnation, entry_text)
  local set = set_named(call('HGET', node_key(incarnation), 'set'))
  call('ZREM', LEASES, incarnation)
  call('ZREM', CHANGES, incarnation)
  remove_idle(incarnation)
  if set then
    leave_set(incarnation, set)
  end
  call('UNLINK', node_key(incarnation), wake_key(incarnation))
  call('HSET', requests_key(incarnation), 'ended', entry_text)
  call('PEXPIRE', requests_key(incarnation), REQUESTS_MS)
  call('HSET', DEAD, incarnation, entry_text)
end

-- Plan to take back up to `max_count` claims. Return {id, kind, state} of each, and whether no claim is left.
local function take_back(incarnation, how, max_count, node, retention)
  local owned = owned_key(incarnation)
  if not is_hash(owned) then
    mend_claims(incarnation)
  end
  local left = call('HLEN', owned)
  local ids, claims = {}, {}
  local at = '0'
  repeat
    local found = call('HSCAN', owned, at, 'COUNT', max_count)
    at = found[1]
    for n = 1, #found[2], 2 do
      if #ids < max_count then
        ids[#ids + 1], claims[#claims + 1] = found[2][n], found[2][n + 1]
      end
    end
  until at == '0' or #ids >= max_count
  local taken = {}
  call('SCARD', charged_key(incarnation))
  if #ids == 0 then
    return taken, true
  end
  local keys = {}
  for n, id in ipairs(ids) do
    keys[n] = record_key(id)
  end
  local raws = call('MGET', unpack(keys))
  for n, id in ipairs(ids) do
    local record = decode(raws[n])
    local fence, flags = claim_parts(claims[n])
    if not fence then
      fence, flags = claim_of(record, incarnation)
    end
    if not record then
      end_claim(incarnation, id, record, nil)
      -- another command can have set the instance aside before
      if raws[n] or call('EXISTS', bad_key(id)) == 0 then
        set_aside(id, '', raws[n] and 'unreadable record' or 'claimed without a record')
      end
    elseif fence and (record.releasing and digits(record.fence) == fence or holds(record, incarnation, fence)) then
      local to = {state = SCHEDULED, due = record.due, node = node, retention = retention,
        note = how == 'L' and 'handed back' or 'node lost'}
      if not record.releasing then
        record.attempts = record.attempts - 1
        local charge = string.upper(how)
        if charge == 'D' or charge == 'S' and has_flag(flags, 'q') then
          if charge == how and has_flag(flags, 's') then
            record.crashes = record.crashes + 1
            add('SADD', charged_key(incarnation), id)
          else
            record.losses = record.losses + 1
          end
        end
        if record.crashes > record.max_crashes then
          to.state, to.note = TERMINATED, 'poison'
        end
        hint_change(id)
      end
      end_claim(incarnation, id, record, to)
      put_string(record_key(id), encode(record))
      taken[#taken + 1] = {id, record.kind, record.state}
    else
      end_claim(incarnation, id, record, nil)
    end
  end
  return taken, left <= #ids
end
