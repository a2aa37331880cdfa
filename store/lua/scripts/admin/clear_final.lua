#!lua flags=allow-oom
-- Clear final instances, or only their history or logs, some kinds a call. The instances of those kinds are cleared in
-- order of creation.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     "instances", "history" or "logs"; the bounds of ids as ZRANGE BYLEX takes them; limit; cursor of kinds ("0"
--          to begin); number of kinds to look at
-- Reply    {number of cleared (or set-aside) instances, set-aside instances, cursor of kinds for the next call, the
--          last id of these kinds or ""}; cursor "0" without an id is the end
local MAX_BYTES = 4194304
local what, limit = ARGV[1], tonumber(ARGV[4])
local kinds, next_cursor = some_kinds(ARGV[5], ARGV[6])
local ids, more, wrong = page(indexes(kinds, CANCELLED + TIMED_OUT + COMPLETED + TERMINATED), ARGV[2], ARGV[3], false, limit)
local cleared = 0

local clear = {
  instances = function(record, id)
    if record.releasing or is_held(record, id) then
      return false
    end
    add('ZREM', expiry_key(record.kind), expiry_member(record, id))
    release_key_and_slot(record, id)
    remove(id, record.kind, record.state, record.tags, record.thread)
    remember_removed(id, created_at(record))
    return true
  end,
  history = function(record, id)
    local total, last, position = 0, nil, 1
    while position <= #record.history do
      local state, at, count, node, note, rest = unpack_text(ENTRY, record.history, position)
      total, last, position = total + count, {state, at, node, note}, rest
    end
    if record.entries > 1 then
      record.history, record.entries = entry(last[1], last[2], last[3], last[4], total), 1
      put_string(record_key(id), encode(record))
      return true
    end
  end,
  logs = function(record, id)
    if record.log_total > 0 then
      record.log_total, record.log_bytes = 0, 0
      put_string(record_key(id), encode(record))
      unlink(logs_key(id))
      return true
    end
  end,
}
local done = read_payloads(ids, false, MAX_BYTES, function(n, raw)
  local record = decode(raw)
  if not record then
    set_aside(ids[n], '', raw and 'unreadable record' or 'indexed without a record')
  end
  if not record or clear[what](record, ids[n]) then
    cleared = cleared + 1
  end
end)
for n = 1, #wrong, 2 do
  add('ZREM', wrong[n], wrong[n + 1])
  count_stray(wrong[n + 1], '', 'its entry in an index is no id and is removed')
end
more = more or done < #ids
pass_slots_and_wake()
write_all()
return {cleared, write_set_aside(), more and ARGV[5] or next_cursor, more and ids[done] or ''}
