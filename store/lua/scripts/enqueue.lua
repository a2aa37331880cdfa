#!lua
-- uses: record queue hints
-- Add instances as Created -> Scheduled. Alone among the scripts that write it is refused when memory is full.
--
-- KEYS[1]  the namespace's prefix
-- ARGV     node name, number of templates;
--          per template: kind, priority, due ("" now, "=us" at, "+us" after now), "" or "k" and the unique key,
--          tags, retention (-1 default), max_crashes;
--          per instance: id, number of its template, spec
-- Reply    {} when all are new (or were added by the same call before); else per instance 0, or the id that has its key
local node = ARGV[1]
local templates = {}
local cursor = 3
local wakeups = {}

for n = 1, tonumber(ARGV[2]) do
  local due_text = ARGV[cursor + 2]
  local due = now
  if due_text ~= '' then
    local number = tonumber(sub(due_text, 2))
    due = byte(due_text) == 43 and now + number or number
  end
  local key = ARGV[cursor + 3]
  local r = {
    state = CREATED, entries = 1, priority = tonumber(ARGV[cursor + 1]), due = due, fence = 0, at = now, attempts = 0,
    crashes = 0, losses = 0, max_crashes = tonumber(ARGV[cursor + 6]), retention = tonumber(ARGV[cursor + 5]),
    log_total = 0, log_bytes = 0, kind = ARGV[cursor], tags = ARGV[cursor + 4], owner = '',
    key = key ~= '' and sub(key, 2) or nil, history = entry(CREATED, now, node, ''),
  }
  become(r, SCHEDULED, node, '')
  r.text = encode(r)
  local due_digits = format('%016.0f', due)
  r.due_digits = due_digits
  templates[n] = r
  cursor = cursor + 7
  if not wakeups[r.kind] then
    wakeups[r.kind] = 0
    touch_zset(ready_key(r.kind))
    touch_zset(DELAYED)
    touch_zset(index_key(SCHEDULED, r.kind))
    call('HLEN', unique_key(r.kind))
  end
  each_tag(r.tags, function(tag) touch_zset(tag_key(tag)) end)
end
call('SCARD', KINDS)

local count = (#ARGV - cursor + 1) / 3
local keys = {}
for n = 1, count do
  keys[n] = record_key(ARGV[cursor + 3 * n - 3])
end
local stored = call('MGET', unpack(keys))

-- The id that has a unique key now: the one it stands for must exist and not be over, its body included.
local holders = {}

local function holder(kind, key)
  local both = #kind .. ':' .. kind .. key
  if holders[both] == nil then
    local id = call('HGET', unique_key(kind), key)
    local r = id and decode(call('MGET', record_key(id))[1])
    holders[both] = r and (not is_final(r.state) or r.releasing) and id or false
  end
  return holders[both], both
end

local answers, refused = {}, false
local seen = {}
local earliest = nil

for n = 1, count do
  local id, r, spec = ARGV[cursor], templates[tonumber(ARGV[cursor + 1])], ARGV[cursor + 2]
  cursor = cursor + 3
  answers[n] = 0
  if stored[n] or seen[id] then
    if seen[id] then
      answers[n] = seen[id]
    end
  else
    local holding, both = false, nil
    if r.key then
      holding, both = holder(r.kind, r.key)
    end
    if holding then
      answers[n] = holding
      refused = true
    else
      if r.key then
        holders[both] = id
        add_pair(later.hset, unique_key(r.kind), r.key, id)
      end
      set(keys[n], r.text)
      set(spec_key(id), spec)
      if r.due > now then
        add_pair(later.zadd, DELAYED, digits(r.due), delayed_member(r, id))
        if not earliest or r.due < earliest.due then
          earliest = r
        end
      else
        add_pair(later.zadd, ready_key(r.kind), r.priority, r.due_digits .. id)
        wakeups[r.kind] = wakeups[r.kind] + 1
      end
      add_pair(later.zadd, index_key(SCHEDULED, r.kind), 0, id)
      if r.tags ~= '' then
        each_tag(r.tags, function(tag) add_pair(later.zadd, tag_key(tag), 0, id) end)
      end
      changed(id)
    end
    seen[id] = answers[n]
  end
end

for kind, due_now in pairs(wakeups) do
  later.sadd[KINDS] = later.sadd[KINDS] or {}
  table.insert(later.sadd[KINDS], kind)
  wake(kind, due_now)
end
if earliest and idle_left > 0 then
  local head = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  if not head[2] or earliest.due < tonumber(head[2]) then
    wake(earliest.kind, 1)
  end
end

write_all()
send_hints()
return refused and answers or {}
