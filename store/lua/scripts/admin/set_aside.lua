#!lua flags=allow-oom
-- Set unreadable instances aside. Their entries in queues stay until a claim finds the entries and drops them.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     per instance: its id, and its kind or ""
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

for n = 1, #ARGV, 2 do
  local id, kind = ARGV[n], ARGV[n + 1]
  local found = call('MGET', record_key(id), spec_key(id))
  if found[1] and not decode(found[1]) then
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
