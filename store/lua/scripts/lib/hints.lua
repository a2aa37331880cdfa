-- Hints to nodes, each to its own wake list: work for idle ones, the end or a change of an instance for watchers.
local WAKE_LIMIT = 1000
local WAKE_MS = 60000

local hinted = {}
local idle_left = call('HLEN', IDLE)
local watched_any = call('HLEN', WATCHED) > 0
local watchers = call('ZRANGE', CHANGES, now, '+inf', 'BYSCORE')
local changes_wanted = #watchers > 0

local function hint(incarnation, what)
  local key = wake_key(incarnation)
  if not hinted[key] then
    hinted[key] = call('LLEN', key)
  end
  add('RPUSH', key, what)
end

-- Hint every living node.
local function hint_all(what)
  for _, incarnation in ipairs(call('ZRANGE', LEASES, now, '+inf', 'BYSCORE')) do
    hint(incarnation, what)
  end
end

-- Take an incarnation out of the idle ones.
local function no_longer_idle(incarnation)
  local kinds = call('HGET', IDLE, incarnation)
  if kinds then
    each_text(kinds, function(kind)
      add('SREM', idle_key(kind), incarnation)
    end)
    add('HDEL', IDLE, incarnation)
  end
end

local function go_idle(incarnation, kinds)
  local texts = {}
  for n, kind in ipairs(kinds) do
    texts[n] = pack('>I4c0', #kind, kind)
  end
  local packed = table.concat(texts)
  if call('HGET', IDLE, incarnation) ~= packed then
    no_longer_idle(incarnation)
    add_pair('HSET', IDLE, incarnation, packed)
    for _, kind in ipairs(kinds) do
      add('SADD', idle_key(kind), incarnation)
    end
  end
end

-- Take up to `wanted` idle, living nodes that can run a kind out of the idle ones, and hint them.
local woken = {}

local function wake(kind, wanted)
  if idle_left <= 0 or wanted <= 0 then
    return
  end
  -- a few more than wanted, as some may have died
  local some = call('SRANDMEMBER', idle_key(kind), wanted + 8)
  if #some == 0 then
    return
  end
  for n, expiry in ipairs(call('ZMSCORE', LEASES, unpack(some))) do
    local incarnation = some[n]
    if wanted > 0 and not woken[incarnation] then
      woken[incarnation] = true
      idle_left = idle_left - 1
      no_longer_idle(incarnation)
      if expiry and tonumber(expiry) > now then
        wanted = wanted - 1
        hint(incarnation, 'w')
      end
    end
  end
end

-- If this is the new earliest delayed instance, one node must know when to come.
local function wake_for_earliest(kind, due)
  if idle_left > 0 then
    local earliest = earliest_due()
    if not earliest or due < earliest then
      wake(kind, 1)
    end
  end
end

local function changed(id)
  if changes_wanted then
    for _, incarnation in ipairs(watchers) do
      hint(incarnation, 'g' .. id)
    end
  end
end

-- Hint those who wait for the end of these instances.
local function ended(ids)
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

-- After write_all: what nobody reads shall neither grow nor stay.
local function bound_hints()
  for key in pairs(hinted) do
    call('LTRIM', key, -WAKE_LIMIT, -1)
    call('PEXPIRE', key, WAKE_MS)
  end
end
