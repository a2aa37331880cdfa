-- The layout of the namespace, which the first use of some features raises.

-- Return the names of live nodes that do not read the wanted layout. If there is none, raise the layout to it.
local function raise_layout(wanted)
  local names, is_higher = {}, tonumber(layout) < tonumber(wanted)
  for _, incarnation in ipairs(is_higher and call('ZRANGE', LEASES, now, '+inf', 'BYSCORE') or {}) do
    local found = call('HMGET', node_key(incarnation), 'name', 'reads')
    if (whole_number(found[2]) or 0) < tonumber(wanted) then
      names[#names + 1] = text_or(found[1], incarnation)
    end
  end
  if is_higher and not names[1] then
    call('SET', KEYS[2], wanted)
    layout = wanted
  end
  return names
end
