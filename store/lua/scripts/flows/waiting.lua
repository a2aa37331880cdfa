#!lua flags=no-writes
-- Read a page of the instances that wait for needs. If a parent has many children, the page ends early.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     the bound of ids as ZRANGE BYLEX takes it; number of Scheduled instances to look at; cursor of kinds ("0" to
--          begin), number of kinds to look at
-- Reply    {next cursor of kinds; the last id if these kinds have more, else ""; 1 if the page ends early, else 0; per
--          instance: id, fence, needs, and the parent of the children that it needs}
local MAX_CHILDREN = 10000
if call('EXISTS', FLOWS) == 0 then
  return {'0', '', 0}
end
local kinds, cursor = some_kinds(ARGV[3], ARGV[4])
local ids, more = page(indexes(kinds, SCHEDULED), ARGV[1], '+', false, tonumber(ARGV[2]))
local keys, reply, last, is_full, children, sizes = {}, {}, '', 0, 0, {}
for n, id in ipairs(ids) do
  keys[n] = record_key(id)
end
for n, raw in ipairs(keys[1] and call('MGET', unpack(keys)) or {}) do
  -- The third byte of a record are its flags. Only a record with a tail has a thread.
  local record = raw and (byte(raw, 3) or 0) >= HAS_TAIL and decode(raw)
  local thread = record and is_waiting(record) and needs_end_wait(record.thread) and record.thread
  if thread then
    -- An instance that has not run needs siblings.
    local parent = record.fence == 0 and thread.parent or ids[n]
    if not sizes[parent] then
      sizes[parent] = call('ZCARD', children_key(parent))
      children = children + sizes[parent]
      if children > MAX_CHILDREN and #reply > 0 then
        more, is_full = true, 1
        break
      end
    end
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3], reply[size + 4] = ids[n], digits(record.fence), thread.needs, parent
  end
  last = ids[n]
end
return {cursor, more and last or '', is_full, unpack(reply)}
