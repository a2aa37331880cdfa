-- Time, numbers, and writes that wait until everything is read and checked. A script gets the definitions of this folder
-- that it names, in the order of script.py. So a local name of a script must not be the name of a definition.
local call = redis.call
local format, sub, byte, find, match = string.format, string.sub, string.byte, string.find, string.match
local max, min = math.max, math.min
local unpack = unpack
local pack, unpack_text = struct.pack, struct.unpack

local CREATED, SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED = 1, 2, 4, 8, 16, 32, 64
local SINGLE = {SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED}
local ID_SIZE = 36

-- The server's clock decides. Lua's numbers are doubles, exact for microseconds until the year 2255.
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Every script that writes compares the layout, so that it changes no namespace of another release. A server that lost its
-- data gets the layout again. The same read tells whether there are indexes of heads (see kinds.lua), whether an
-- incarnation watches every change, and whether an instance was removed so early that its enqueue may come again.
local layout, has_indexes, has_watchers, has_gone =
  unpack(call('MGET', KEYS[2], KEYS[1] .. 'indexed', KEYS[1] .. 'watching', KEYS[1] .. 'gone'))
if not layout then
  call('SET', KEYS[2], LAYOUT)
elseif layout ~= LAYOUT then
  return redis.error_reply('LAYOUT ' .. layout)
end

-- A whole number as text; `..` and tostring lose digits. Redis itself writes all digits of a number argument.
local function digits(number)
  return format('%.0f', number)
end

local function is_final(state)
  return state >= CANCELLED
end

-- Call f for each text of a list, such as tags. A text is stored as 4 bytes with its size, then the text.
local function each_text(texts, f)
  local from = 1
  while from <= #texts do
    local whole, text, next_from = pcall(unpack_text, '>I4c0', texts, from)
    if not whole then
      return
    end
    f(text)
    from = next_from
  end
end

-- Writes wait here: `pending.ZADD[key]` are the arguments of one ZADD.
local pending = {}
local ORDER = {'ZREM', 'ZADD', 'HDEL', 'HSET', 'SREM', 'SADD', 'RPUSH'}

local function pending_list(command, key)
  local writes = pending[command]
  if not writes then
    writes = {}
    pending[command] = writes
  end
  local list = writes[key]
  if not list then
    list = {}
    writes[key] = list
  end
  return list
end

local function add(command, key, value)
  local list = pending_list(command, key)
  list[#list + 1] = value
end

local function add_pair(command, key, first, second)
  local list = pending_list(command, key)
  local size = #list
  list[size + 1] = first
  list[size + 2] = second
end

-- Records and arguments: one MSET writes all of them.
local records_to_set = {}
local keys_to_unlink = {}

local function put_string(key, value)
  local size = #records_to_set
  records_to_set[size + 1] = key
  records_to_set[size + 2] = value
end

-- Removed instances, each with the milliseconds in which its enqueue may come again.
local gone = {}

-- Wake lists that get hints. A list that no node reads must stay short and expire.
local hinted = {}
local WAKE_LIMIT, WAKE_MS = 1000, 60000

local function unlink(key)
  keys_to_unlink[#keys_to_unlink + 1] = key
end

-- Lua passes at most about 8,000 arguments at once. The size is even, so pairs stay together.
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

local function send_list(command, list)
  for first = 1, #list, SLICE do
    call(command, unpack(list, first, min(first + SLICE - 1, #list)))
  end
end

-- A function that plans writes that depend on the other writes, or nil.
local after_writing = nil

local function send_pending()
  local all = pending
  pending = {}
  for n = 1, #ORDER do
    local writes = all[ORDER[n]]
    if writes then
      for key, list in pairs(writes) do
        send(ORDER[n], key, list)
      end
    end
  end
end

local function write_all()
  send_list('MSET', records_to_set)
  send_pending()
  if after_writing then
    after_writing()
    send_pending()
  end
  send_list('UNLINK', keys_to_unlink)
  for n, one in ipairs(gone) do
    call('SET', KEYS[1] .. 'gone:' .. one[1], '', 'PX', one[2])
    if n == 1 then
      call('SET', KEYS[1] .. 'gone', '', 'PX', REPEAT_MS)
    end
  end
  for key in pairs(hinted) do
    call('LTRIM', key, -WAKE_LIMIT, -1)
    call('PEXPIRE', key, WAKE_MS)
  end
  records_to_set, keys_to_unlink, gone, hinted = {}, {}, {}, {}
end
