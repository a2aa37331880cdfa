#!lua flags=allow-oom
-- Set unreadable instances aside. Their entries in queues stay until a claim finds the entries and drops them.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     per instance: its id, its kind or "", and its record as the caller read it. A record that is unchanged is
--          set aside even if the script can read the record, because the caller could not
-- Reply    set-aside instances
local function is_indexed(id, kinds)
  for _, kind in ipairs(kinds) do
    for _, state in ipairs(SINGLE) do
      if call('ZSCORE', index_key(state, kind), id) then
        return true
      end
    end
  end
  return false
end

for n = 1, #ARGV, 3 do
  local id, kind, seen = ARGV[n], ARGV[n + 1], ARGV[n + 2]
  local found = call('MGET', record_key(id), spec_key(id))
  if found[1] and (found[2] and found[1] == seen or not decode(found[1])) then
    set_aside(id, kind, 'unreadable record')
  elseif found[1] and not found[2] then
    set_aside(id, kind, 'record without arguments')
  elseif not found[1] and is_indexed(id, kinds_to_search(kind)) then
    if call('EXISTS', bad_key(id)) == 1 then
      unindex(id, kinds_to_search(kind))
    else
      set_aside(id, kind, 'indexed without a record')
    end
  end
end
pass_slots_and_wake()
write_all()
return write_set_aside()
