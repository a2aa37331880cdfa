-- A hint is an entry in the wake list of a node. Hints tell idle nodes about work, and watching nodes about the end or
-- a change of an instance.
local idle_left = call('HLEN', IDLE)
local watched_any = call('HLEN', WATCHED) > 0
local watchers = has_watchers and call('ZRANGE', CHANGES, now, '+inf', 'BYSCORE') or {}
local changes_wanted = #watchers > 0

local function hint(incarnation, what)
  local key = wake_key(incarnation)
  hinted[key] = (hinted[key] or call('LLEN', key)) + 1
  add('RPUSH', key, what)
end

-- Send a hint to every live node.
local function hint_all(what)
  for _, incarnation in ipairs(call('ZRANGE', LEASES, now, '+inf', 'BYSCORE')) do
    hint(incarnation, what)
  end
end

-- Send a hint to one live node, to this incarnation if it is one: ends of instances must be followed up.
local function hint_settle(incarnation)
  local live = incarnation and call('ZSCORE', LEASES, incarnation) and incarnation
    or call('ZRANGE', LEASES, now, '+inf', 'BYSCORE', 'LIMIT', 0, 1)[1]
  if live then
    hint(live, 't')
  end
end

-- Plan to remove an incarnation from the idle ones.
local function remove_idle(incarnation, entry_text)
  entry_text = entry_text or call('HGET', IDLE, incarnation)
  if entry_text then
    add('SREM', idle_key(sub(entry_text, 1, SET_SIZE)), incarnation)
    add('HDEL', IDLE, incarnation)
  end
end

-- Register an incarnation as idle. `without` lists the kinds of the set that the incarnation does not claim now, so
-- that their instances do not wake the node.
local function add_idle(incarnation, set, without)
  local texts = {set}
  for n, kind in ipairs(without) do
    texts[n + 1] = pack('>I4c0', #kind, kind)
  end
  local entry_text, before = table.concat(texts), call('HGET', IDLE, incarnation)
  if before == entry_text then
    return
  elseif before then
    add('SREM', idle_key(sub(before, 1, SET_SIZE)), incarnation)
  end
  add_pair('HSET', IDLE, incarnation, entry_text)
  add('SADD', idle_key(set), incarnation)
end

-- Return whether an incarnation must claim although it got no hint: '1' if it is not registered as idle, or if an
-- instance is due that it can claim. Otherwise '0', or '' for a large set whose queues are too many: it has no index,
-- or most of them have no room.
local function work_due(incarnation)
  local entry_text = call('HGET', IDLE, incarnation)
  if not entry_text then
    return '1'
  end
  local set, keys = sub(entry_text, 1, SET_SIZE), {}
  local letter = sub(set, 1, 1)
  if letter == 'u' then
    return ''
  elseif letter == 'x' then
    keys = {heads_key(set, false), heads_key(set, true)}
  else
    -- Kinds that the last claim left out count, too: the node may take them now.
    for _, kind in ipairs(call('SMEMBERS', set_key(set))) do
      if not shared or wanted_nodes(kind, 1) > 0 then
        keys[#keys + 1], keys[#keys + 2] = ready_key(kind), suspects_key(kind)
      end
    end
  end
  local due, has_more = keys[1] and call('EXISTS', unpack(keys)) > 0, false
  if due and shared and letter == 'x' then
    due, has_more = is_due_in_limits(keys)
  end
  local next_due = not due and earliest_due()
  return (due or next_due and next_due <= now) and '1' or has_more and '' or '0'
end

local woken = {}

-- Send a hint about work to up to `wanted` live nodes of the idle ones in `some`; hinted nodes and dead nodes are no
-- longer idle. Return how many nodes are still wanted.
local function wake_some(some, kind, wanted)
  local entries, expiries = call('HMGET', IDLE, unpack(some)), call('ZMSCORE', LEASES, unpack(some))
  for n, incarnation in ipairs(some) do
    local entry_text, passed_over = entries[n], false
    each_text(entry_text and sub(entry_text, SET_SIZE + 1) or '', function(text)
      passed_over = passed_over or text == kind
    end)
    if wanted > 0 and not woken[incarnation] and entry_text and not passed_over then
      woken[incarnation] = true
      idle_left = idle_left - 1
      remove_idle(incarnation, entry_text)
      if expiries[n] and tonumber(expiries[n]) > now then
        wanted = wanted - 1
        hint(incarnation, 'w')
      end
    end
  end
  return wanted
end

-- Send hints to idle, live nodes that can run a kind: to `wanted` nodes, but to at most MAX_WOKEN. Return how many nodes
-- got one.
local function wake(kind, wanted)
  local MAX_SETS, MAX_SAMPLED, MAX_WOKEN = 32, 256, 200
  local sets = idle_left > 0 and wanted > 0 and sets_of(kind) or ''
  wanted = min(wanted, MAX_WOKEN)
  local before = wanted
  if #sets > MAX_SETS * SET_SIZE then
    -- Most nodes can run a kind that is in many sets, so a sample of the idle nodes is enough.
    local sample, some = call('HRANDFIELD', IDLE, MAX_SAMPLED, 'WITHVALUES'), {}
    for n = 1, #sample, 2 do
      if find(sets, sub(sample[n + 1], 1, SET_SIZE), 1, true) then
        some[#some + 1] = sample[n]
      end
    end
    return #some > 0 and before - wake_some(some, kind, wanted) or 0
  end
  for at = 1, #sets, SET_SIZE do
    -- Read 8 incarnations more than wanted, because some of them can be dead.
    local some = wanted > 0 and call('SRANDMEMBER', idle_key(sub(sets, at, at + SET_SIZE - 1)), wanted + 8) or {}
    if #some > 0 then
      wanted = wake_some(some, kind, wanted)
    end
  end
  return before - wanted
end

-- Wake as many nodes as there are newly queued instances. If a new delayed instance is the earliest one, wake one node,
-- so that the node learns when to claim.
local function wake_for_new_work()
  for kind, wanted in pairs(idle_left > 0 and newly_due or {}) do
    if shared then
      wake_in_limits(kind, wanted, wake)
    else
      wake(kind, wanted)
    end
  end
  if earliest_delayed and idle_left > 0 then
    local earliest = earliest_due()
    if not earliest or earliest_delayed.due < earliest then
      wake(earliest_delayed.kind, 1)
    end
  end
  newly_due, earliest_delayed = {}, nil
end

local function hint_change(id)
  if changes_wanted then
    for _, incarnation in ipairs(watchers) do
      hint(incarnation, 'g' .. id)
    end
  end
end

-- Send a hint about each ended instance to the incarnations that wait for the end.
local function hint_end(ids)
  if not watched_any or #ids == 0 then
    return
  end
  for n, incarnations in ipairs(call('HMGET', WATCHED, unpack(ids))) do
    if incarnations then
      for incarnation in string.gmatch(incarnations, '[^\n]+') do
        hint(incarnation, 'f' .. ids[n])
      end
      add('HDEL', WATCHED, ids[n])
    end
  end
end
