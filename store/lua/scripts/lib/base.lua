-- Time, numbers and writes that are gathered per key. Every script starts with this and with keys.lua.
-- The server's clock decides everything; Lua's numbers are doubles, exact for microseconds until the year 2255.
local call = redis.call
local format, sub, byte = string.format, string.sub, string.byte
local max, min = math.max, math.min
local unpack = unpack

local CREATED, SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED = 1, 2, 4, 8, 16, 32, 64
local SINGLE = {SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED}
local ID_SIZE = 36

local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- A whole number as text; `..` and tostring lose digits.
local function digits(number)
  return format('%.0f', number)
end

local function is_final(state)
  return state >= CANCELLED
end

-- Writes wait here until everything was read and checked: `later.zadd[key]` are the arguments of one ZADD.
local later = {zadd = {}, zrem = {}, hset = {}, hdel = {}, sadd = {}, rpush = {}, mset = {}, unlink = {}}

local function add(writes, key, value)
  local list = writes[key]
  if list then
    list[#list + 1] = value
  else
    writes[key] = {value}
  end
end

local function add_pair(writes, key, first, second)
  local list = writes[key]
  if list then
    local size = #list
    list[size + 1] = first
    list[size + 2] = second
  else
    writes[key] = {first, second}
  end
end

local function set(key, value)
  local list = later.mset
  local size = #list
  list[size + 1] = key
  list[size + 2] = value
end

-- Lua can pass some 8,000 arguments at once; sizes are even, so pairs stay together.
local SLICE = 4000

local function send(command, key, list)
  if #list <= SLICE then
    call(command, key, unpack(list))
    return
  end
  for first = 1, #list, SLICE do
    call(command, key, unpack(list, first, min(first + SLICE - 1, #list)))
  end
end

local function send_all(command, writes)
  for key, list in pairs(writes) do
    send(command, key, list)
  end
end

local function write_all()
  for first = 1, #later.mset, SLICE do
    call('MSET', unpack(later.mset, first, min(first + SLICE - 1, #later.mset)))
  end
  send_all('ZREM', later.zrem)
  send_all('ZADD', later.zadd)
  send_all('HDEL', later.hdel)
  send_all('HSET', later.hset)
  send_all('SADD', later.sadd)
  send_all('RPUSH', later.rpush)
  for first = 1, #later.unlink, SLICE do
    call('UNLINK', unpack(later.unlink, first, min(first + SLICE - 1, #later.unlink)))
  end
end
