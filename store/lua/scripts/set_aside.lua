#!lua flags=allow-oom
-- Set aside those of these instances that cannot be read; their entries in a queue are dropped when a claim meets them.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     of each: its id, its kind or "" for one that is not known, and its record as its reader saw it: while that is
--          the same it is set aside whatever the scripts can read of it, since its reader could not
-- Reply    what was set aside
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
  elseif not found[1] and is_indexed(id, kinds_of_aside(kind)) then
    if call('EXISTS', bad_key(id)) == 1 then
      unindex(id, kinds_of_aside(kind))
    else
      set_aside(id, kind, 'indexed without a record')
    end
  end
end
settle_slots()
wake_for_entered()
write_all()
bound_hints()
return put_aside()
