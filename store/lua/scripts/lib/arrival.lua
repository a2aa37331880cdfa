-- New instances: what those alike share, who has their unique keys, and the writes that bring them in.
local TEMPLATE_SIZE = 7

-- What instances alike share: their record and their indexes. ARGV from `at` on:
-- kind, priority, due ("" now, "=us" at, "+us" after now), "" or "k" and the unique key, tags, retention (-1 default),
-- max_crashes. `slot` is the schedule whose slot they take or wait for, or nil.
local function template(at, node, slot)
  local kind, priority, due_text, key, tags = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local due = now
  if due_text ~= '' then
    due = tonumber(sub(due_text, 2)) + (sub(due_text, 1, 1) == '+' and now or 0)
  end
  key = key ~= '' and sub(key, 2) or nil
  note_kind(kind)
  touch_zsets(ready_key(kind), index_key(SCHEDULED, kind))
  local tag_keys = {}
  if tags ~= '' then
    each_text(tags, function(tag)
      tag_keys[#tag_keys + 1] = tag_key(tag)
      touch_zset(tag_key(tag))
    end)
  end
  return {
    kind = kind, priority = priority, due = due, key = key, tag_keys = tag_keys,
    record = newborn(kind, priority, due, key, tags, ARGV[at + 5], ARGV[at + 6], node, slot),
  }
end

-- The id that has the unique key of such an instance: what it stands for must exist and not be over, its body included.
local key_holders = {}

local function key_holder(one)
  if not one.key then
    return false
  end
  local kind, key = one.kind, one.key
  local name = #kind .. ':' .. kind .. key
  if key_holders[name] == nil then
    local id = call('HGET', unique_key(kind), key)
    local raw = id and call('MGET', record_key(id))[1]
    key_holders[name] = raw and (not is_final(byte(raw, 2) or CANCELLED) or byte(raw, 3) % 2 == RELEASING) and id or false
  end
  return key_holders[name]
end

-- Plan the writes of one; `waits` keeps it out of its queue.
local function arrive(one, id, key, spec, waits)
  local kind = one.kind
  if one.key then
    key_holders[#kind .. ':' .. kind .. one.key] = id
    add_pair('HSET', unique_key(kind), one.key, id)
  end
  set(key, one.record)
  set(spec_key(id), spec)
  if not waits then
    let_in(id, kind, one.priority, one.due, false)
  end
  add_pair('ZADD', index_key(SCHEDULED, kind), 0, id)
  for _, tagged in ipairs(one.tag_keys) do
    add_pair('ZADD', tagged, 0, id)
  end
  changed(id)
end
