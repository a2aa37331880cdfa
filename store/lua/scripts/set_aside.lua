#!lua flags=allow-oom
-- Set aside those of these instances that cannot be read; their entries in a queue are dropped when a claim meets them.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     ids
-- Reply    what was set aside
local function indexed(id)
  for _, kind in ipairs(call('SMEMBERS', KINDS)) do
    for _, state in ipairs(SINGLE) do
      if call('ZSCORE', index_key(state, kind), id) then
        return true
      end
    end
  end
  return false
end

for _, id in ipairs(ARGV) do
  local found = call('MGET', record_key(id), spec_key(id))
  if found[1] and not decode(found[1]) then
    set_aside(id, '', 'unreadable record')
  elseif found[1] and not found[2] then
    set_aside(id, '', 'record without arguments')
  elseif not found[1] and indexed(id) then
    set_aside(id, '', 'indexed without a record')
  end
end
settle_slots()
write_all()
bound_hints()
return put_aside()
