#!lua flags=allow-oom
-- Clear final instances, or a part of them, in order of creation.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     "instances", "history" or "logs"; the bounds of ids as ZRANGE BYLEX takes them; limit
-- Reply    {how many were cleared (or set aside), cursor or "", what was set aside}
local what, limit = ARGV[1], tonumber(ARGV[4])
local keys = indexes(false, CANCELLED + TIMED_OUT + COMPLETED + TERMINATED)
local ids, more = page(keys, ARGV[2], ARGV[3], false, limit)
local cleared = 0
if #ids == 0 then
  return {0, '', {}}
end
for n, id in ipairs(ids) do
  keys[n] = record_key(id)
end

local clear = {
  instances = function(r, id)
    if r.releasing then
      return false
    end
    add('ZREM', expiry_key(r.kind), expiry_member(r, id))
    set_free(r, id)
    remove(id, r.kind, r.state, r.tags ~= '')
    return true
  end,
  history = function(r, id)
    local total, last, position = 0, nil, 1
    while position <= #r.history do
      local state, at, count, node, note, rest = unpack_text(ENTRY, r.history, position)
      total, last, position = total + count, {state, at, node, note}, rest
    end
    if r.entries > 1 then
      r.history, r.entries = entry(last[1], last[2], last[3], last[4], total), 1
      set(record_key(id), encode(r))
      return true
    end
  end,
  logs = function(r, id)
    if r.log_total > 0 then
      r.log_total, r.log_bytes = 0, 0
      set(record_key(id), encode(r))
      unlink(logs_key(id))
      return true
    end
  end,
}
for n, raw in ipairs(call('MGET', unpack(keys, 1, #ids))) do
  local r = decode(raw)
  if not r then
    set_aside(ids[n], '', raw and 'unreadable record' or 'indexed without a record')
  end
  if not r or clear[what](r, ids[n]) then
    cleared = cleared + 1
  end
end
settle_slots()
write_all()
bound_hints()
return {cleared, more and ids[#ids] or '', put_aside()}
