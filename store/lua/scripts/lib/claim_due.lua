-- Delayed instances that are due move to the queue of their kind, before a claim selects. The move changes only index
-- entries, so a claim that fails afterwards leaves nothing half done.
local function move_delayed(claim, moved)
  if has_indexes then
    local kinds = {}
    for n = 1, #moved, 2 do
      kinds[#kinds + 1] = match(moved[n], '^-?%d+:(.*)$', ID_SIZE + 2)
    end
    load_kinds(kinds)
  end
  for n = 1, #moved, 2 do
    local member = moved[n]
    local id, suspect = sub(member, 1, ID_SIZE), sub(member, ID_SIZE + 1, ID_SIZE + 1) == 's'
    local priority, kind = match(member, '^(-?%d+):(.*)$', ID_SIZE + 2)
    if priority then
      add_to_queue(id, kind, priority, tonumber(moved[n + 1]), suspect)
    else
      set_aside(id, '', 'unreadable entry among the delayed')
    end
    add('ZREM', DELAYED, member)
  end
  if gates and gates.is_busy then
    pass_gates()
  end
  write_all()
  -- If the claiming node runs a kind, the claim itself takes the instances of the kind, so other nodes need no hint.
  for kind in pairs(claim.limit > 0 and newly_due or {}) do
    local in_set = claim.caps[kind] or claim.letter ~= 's' and find(sets_of(kind) or '', claim.set, 1, true)
    if in_set and remaining_of(claim, kind) > 0 then
      newly_due[kind] = nil
    end
  end
end

local function move_due(claim)
  local moved = due_delayed(500)
  if moved[1] then
    move_delayed(claim, moved)
  end
end
