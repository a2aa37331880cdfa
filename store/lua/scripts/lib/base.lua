-- Time, numbers, and planned writes: a script reads and checks all keys before its first write. A script gets the
-- definitions of this folder that it names, in the order of script.py. So a local name of a script must not be the name
-- of a definition.
local call = redis.call
local format, sub, byte, find, match = string.format, string.sub, string.byte, string.find, string.match
local max, min = math.max, math.min
local unpack = unpack
local pack, unpack_text = struct.pack, struct.unpack

local CREATED, SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED = 1, 2, 4, 8, 16, 32, 64
local SINGLE = {SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED}
local ID_SIZE = 36

-- The server's clock decides whether an instance is due and whether a lease has expired. Lua numbers are doubles, which
-- are exact for microseconds until the year 2255.
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local LATEST = 2 ^ 53 - 1

-- Every script that writes compares the layout, so a node changes no namespace of an incompatible version of peerjob. A
-- server that lost its data gets the layout again.
-- The same MGET reads four markers. `indexed`: a set of kinds has an index of heads. `watching`: an incarnation
-- watches every change. `gone`: an instance was removed while a repeat of its enqueue can still arrive. `limited`: a
-- limit is in use, or a kind is paused.
local layout, has_indexes, has_watchers, has_gone, limited =
  unpack(call('MGET', KEYS[2], KEYS[1] .. 'indexed', KEYS[1] .. 'watching', KEYS[1] .. 'gone', KEYS[1] .. 'limited'))
if not layout then
  layout = call('EXISTS', KEYS[1] .. 'flows') == 1 and FLOWS_LAYOUT or limited and LIMITS_LAYOUT or LAYOUT
  call('SET', KEYS[2], layout)
elseif layout ~= LAYOUT and layout ~= LIMITS_LAYOUT and layout ~= FLOWS_LAYOUT then
  return redis.error_reply('LAYOUT ' .. layout)
end

-- Write a whole number as text, because `..` and tostring lose digits. A number that is an argument of a command needs
-- no conversion: Redis writes all digits.
local function digits(number)
  return format('%.0f', number)
end

local function is_final(state)
  return state >= CANCELLED
end

-- Call f for each text of a packed list, for example of tags. Each text is stored as 4 bytes with its size, followed by
-- the text.
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

-- Planned writes, which write_all sends: `pending.ZADD[key]` is the list of arguments of one ZADD.
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
  local writes = pending[command]
  local list = writes and writes[key] or pending_list(command, key)
  list[#list + 1] = value
end

local function add_pair(command, key, first, second)
  local writes = pending[command]
  local list = writes and writes[key] or pending_list(command, key)
  local size = #list
  list[size + 1] = first
  list[size + 2] = second
end

-- Keys and values of records and specs to store: one MSET writes all of them.
local records_to_set = {}
local keys_to_unlink = {}

local function put_string(key, value)
  local size = #records_to_set
  records_to_set[size + 1] = key
  records_to_set[size + 2] = value
end

-- Removed instances, each with the number of milliseconds during which a repeat of its enqueue can still arrive.
local gone = {}

-- Wake lists to which the script adds hints. A list that no node reads must stay short and must expire.
local hinted = {}
local WAKE_LIMIT, WAKE_MS = 1000, 60000

local function unlink(key)
  keys_to_unlink[#keys_to_unlink + 1] = key
end

-- Lua passes at most about 8,000 arguments in one call. SLICE is even, so that the two parts of a pair stay together.
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

-- A function that plans more writes after the planned ones are sent, or nil. The additional writes depend on the sent
-- ones.
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
  if gone[1] then
    -- The value tells that one of the marks may stay for longer: the time of `gone` must never become shorter.
    local longer = has_gone == 'longer'
    for n = 1, #gone do
      call('SET', KEYS[1] .. 'gone:' .. gone[n][1], '', 'PX', gone[n][2])
      longer = longer or gone[n][2] > REPEAT_MS
    end
    call('SET', KEYS[1] .. 'gone', longer and 'longer' or '', 'PX', longer and OUTBOX_REPEAT_MS or REPEAT_MS)
    has_gone = longer and 'longer' or ''
  end
  for key, size in pairs(hinted) do
    if size > WAKE_LIMIT then
      call('LTRIM', key, -WAKE_LIMIT, -1)
    end
    call('PEXPIRE', key, WAKE_MS)
  end
  records_to_set, keys_to_unlink, gone, hinted = {}, {}, {}, {}
end
