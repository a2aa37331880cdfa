-- Hints to nodes, each to its own wake list: work for idle ones, the end or a change of an instance for watchers.
local WAKE_LIMIT = 1000
local WAKE_MS = 60000

local hints = {}
local idle_left = call('HLEN', IDLE)
local watched_any = call('HLEN', WATCHED) > 0
local watchers = call('ZRANGE', CHANGES, now, '+inf', 'BYSCORE')
local changes_wanted = #watchers > 0

local function hint(incarnation, what)
  if not hints[incarnation] then
    call('LLEN', wake_key(incarnation))
  end
  add(hints, incarnation, what)
end

-- Take up to `wanted` idle, living nodes that can run a kind out of the idle ones; answers how many.
local woken = {}
local no_longer_idle = {}

local function wake(kind, wanted)
  if idle_left <= 0 or wanted <= 0 then
    return 0
  end
  local key = idle_key(kind)
  local some = call('SRANDMEMBER', key, min(wanted, idle_left) + 8)
  if #some == 0 then
    return 0
  end
  local idle = call('HMGET', IDLE, unpack(some))
  local expiries = call('ZMSCORE', LEASES, unpack(some))
  local taken = 0
  for n, incarnation in ipairs(some) do
    if not idle[n] or not expiries[n] then
      add(no_longer_idle, key, incarnation)
    elseif taken < wanted and not woken[incarnation] and tonumber(expiries[n]) > now then
      woken[incarnation] = true
      taken = taken + 1
      idle_left = idle_left - 1
      hint(incarnation, 'w')
      add(later.hdel, IDLE, incarnation)
      add(no_longer_idle, key, incarnation)
    end
  end
  return taken
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
      add(later.hdel, WATCHED, ids[n])
    end
  end
end

local function send_hints()
  send_all('SREM', no_longer_idle)
  for incarnation, list in pairs(hints) do
    local key = wake_key(incarnation)
    send('RPUSH', key, list)
    call('LTRIM', key, -WAKE_LIMIT, -1)
    call('PEXPIRE', key, WAKE_MS)
  end
end
