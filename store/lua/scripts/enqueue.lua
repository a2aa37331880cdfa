#!lua
-- Add instances as Created -> Scheduled. Alone among the scripts that write it is refused when memory is full.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     node name, number of templates;
--          per template: kind, priority, due ("" now, "=us" at, "+us" after now), "" or "k" and the unique key,
--          tags, retention (-1 default), max_crashes;
--          per instance: id, number of its template, spec
-- Reply    per instance 0 (new, or added by the same call before), or the id that has its key; when all are new, 1 if
--          nobody was idle or watched, so that enqueue_one.lua will do the next time, else 0
local node, cursor = ARGV[1], 3
local were_idle = idle_left

-- What instances alike share: their record, their place in the queue up to the id, and their indexes.
local templates, due_by_kind = {}, {}
for n = 1, tonumber(ARGV[2]) do
  local kind, priority, due_text, key, tags = ARGV[cursor], ARGV[cursor + 1], ARGV[cursor + 2], ARGV[cursor + 3],
    ARGV[cursor + 4]
  local due = now
  if due_text ~= '' then
    due = tonumber(sub(due_text, 2)) + (sub(due_text, 1, 1) == '+' and now or 0)
  end
  key = key ~= '' and sub(key, 2) or nil
  if not due_by_kind[kind] then
    due_by_kind[kind] = 0
    call('ZCARD', ready_key(kind))
    call('ZCARD', index_key(SCHEDULED, kind))
  end
  local tag_keys = {}
  if tags ~= '' then
    each_text(tags, function(tag)
      tag_keys[#tag_keys + 1] = tag_key(tag)
      call('ZCARD', tag_key(tag))
    end)
  end
  templates[n] = {
    kind = kind, priority = priority, due = due, key = key, place = due <= now and ready_member(due, ''),
    tag_keys = tag_keys, record = newborn(kind, priority, due, key, tags, ARGV[cursor + 5], ARGV[cursor + 6], node),
  }
  cursor = cursor + 7
end
call('ZCARD', DELAYED)
call('SCARD', KINDS)

local count = (#ARGV - cursor + 1) / 3
local keys = {}
for n = 1, count do
  keys[n] = record_key(ARGV[cursor + 3 * n - 3])
end
local stored = call('MGET', unpack(keys))

-- The id that has a unique key now: what it stands for must exist and not be over, its body included.
local holders = {}

local function holder(kind, key)
  local name = #kind .. ':' .. kind .. key
  if holders[name] == nil then
    local id = call('HGET', unique_key(kind), key)
    local raw = id and call('MGET', record_key(id))[1]
    holders[name] = raw and (not is_final(byte(raw, 2) or CANCELLED) or byte(raw, 3) % 2 == RELEASING) and id or false
  end
  return holders[name], name
end

local answers, refused, seen = {}, false, {}
local earliest = nil

for n = 1, count do
  local id, one = ARGV[cursor], templates[tonumber(ARGV[cursor + 1])]
  local kind, answer = one.kind, seen[id] or 0
  if not stored[n] and not seen[id] then
    local holding, name = false, nil
    if one.key then
      holding, name = holder(kind, one.key)
    end
    if holding then
      answer = holding
      refused = true
    else
      if one.key then
        holders[name] = id
        add_pair('HSET', unique_key(kind), one.key, id)
      end
      set(keys[n], one.record)
      set(spec_key(id), ARGV[cursor + 2])
      if one.place then
        add_pair('ZADD', ready_key(kind), one.priority, one.place .. id)
        due_by_kind[kind] = due_by_kind[kind] + 1
      else
        add_pair('ZADD', DELAYED, one.due, delayed_member(id, false, one.priority, kind))
        if not earliest or one.due < earliest.due then
          earliest = one
        end
      end
      add_pair('ZADD', index_key(SCHEDULED, kind), 0, id)
      for _, key in ipairs(one.tag_keys) do
        add_pair('ZADD', key, 0, id)
      end
      changed(id)
    end
  end
  seen[id] = answer
  answers[n] = answer
  cursor = cursor + 3
end

if idle_left > 0 then
  for kind, due_now in pairs(due_by_kind) do
    wake(kind, due_now)
  end
  if earliest then
    wake_for_earliest(earliest.kind, earliest.due)
  end
end

if #records_to_set > 0 then
  for kind in pairs(due_by_kind) do
    call('SADD', KINDS, kind)
  end
  write_all()
  bound_hints()
end
return refused and answers or (were_idle > 0 or changes_wanted) and 0 or 1
