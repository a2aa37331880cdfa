#!lua flags=allow-oom
-- Clear final instances, or a part of them: some kinds at a time, of these in order of creation.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     "instances", "history" or "logs"; the bounds of ids as ZRANGE BYLEX takes them; limit;
--          cursor of kinds ("0" to begin), how many kinds to look at
-- Reply    {how many were cleared (or set aside), what was set aside, cursor of kinds to go on with, the last id of these
--          kinds or ""}; the cursor "0" without an id is the end
local MAX_BYTES = 4194304
local what, limit = ARGV[1], tonumber(ARGV[4])
local kinds, next_cursor = some_kinds(ARGV[5], ARGV[6])
local ids, more = page(indexes(kinds, CANCELLED + TIMED_OUT + COMPLETED + TERMINATED), ARGV[2], ARGV[3], false, limit)
local cleared = 0

local clear = {
  instances = function(r, id)
    if r.releasing then
      return false
    end
    add('ZREM', expiry_key(r.kind), expiry_member(r, id))
    set_free(r, id)
    remove(id, r.kind, r.state, r.tags)
    remember_removed(id, created_at(r))
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
local done = read_payloads(ids, false, MAX_BYTES, function(n, raw)
  local r = decode(raw)
  if not r then
    set_aside(ids[n], '', raw and 'unreadable record' or 'indexed without a record')
  end
  if not r or clear[what](r, ids[n]) then
    cleared = cleared + 1
  end
end)
more = more or done < #ids
settle_slots()
wake_for_entered()
write_all()
bound_hints()
return {cleared, put_aside(), more and ARGV[5] or next_cursor, more and ids[done] or ''}
