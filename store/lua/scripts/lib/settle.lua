-- What follows the end of an instance. An instance is *over* when it is final and no body of it runs. An *edge* tells that
-- an instance needs another one: "c" completed or "e" ended, under the fence that the first one then had.
-- An entry of SETTLING is an end that is not followed up, or only in part:
--   e, id, final state or 0 if it is gone: the instance is over, and has edges
--   k, id: the instance is final, and holds children
--   f, id, needed id, state as above, fence: an instance needs one that was over before, and had to complete
-- Each script that can end an instance names `settle`, and calls it after all its writes: what it does depends on the
-- written state. Each edge and each child leaves its set in the same round of writes as its effect. Nil in a namespace
-- without the layout of children.
local settle = layout == FLOWS_LAYOUT and (function()
  local NOTES = {[CANCELLED] = NEED_CANCELLED, [TIMED_OUT] = NEED_TIMED_OUT, [TERMINATED] = NEED_TERMINATED}
  -- By id: the states of the instances that the script ends; the planned edges of those that it lets others need; those
  -- that it lets need one that failed; the children that it lets go; the damaged ones.
  -- By id: the edges that were read before any write, MAX_SETTLED and one more at most.
  local self, released, damaged, has_ends = {over = {}, needed = {}, failing = {}}, {}, {}, false
  local edges = {}

  -- Keep that an instance is final.
  function self.final(record, id)
    if present(record.thread.flags, HAS_CHILDREN) then
      call('ZCARD', children_key(id))
      settle_later('k' .. id)
      has_ends = true
    end
  end

  -- Keep that an instance is over. Return whether its parent holds it; joins.lua takes care of one that it takes.
  function self.is_over(record, id, retention)
    if record.thread.parent == '' then
      return false
    end
    self.over[id] = record.state
    local key = edges_key(id)
    local found = not self.needed[id] and call('ZRANGE', key, 0, MAX_SETTLED) or nil
    if self.joins and found and not found[MAX_SETTLED + 1] and self.joins.take(record, id, key, found, retention) then
      return true
    end
    edges[id] = found
    if self.needed[id] or found[1] then
      settle_later('e' .. id .. STATE_TEXT[record.state])
      has_ends = true
    end
    return not released[id] and is_held(record, id)
  end

  -- Keep that an instance needs one that is over and had to complete. Return false if that is known.
  function self.fails(id, fence, needed, state)
    local text = 'f' .. id .. needed .. state .. ' ' .. digits(fence)
    self.failing[id] = true
    if call('ZSCORE', SETTLING, text) then
      return false
    end
    settle_later(text)
    has_ends = true
    return true
  end

  -- Read the first entries, and their edges and children, up to `left` of them. Return them in order: {dependant, when,
  -- fence, needed id, its state} for an edge, {id} for a child. Return also what is left, and the damaged edges.
  local function next_ends(left)
    local found, lost = {}, {}
    for _, text in ipairs(call('ZRANGE', SETTLING, 0, left - 1)) do
      local letter, id, members, is_whole = sub(text, 1, 1), sub(text, 2, 37), {}, true
      local key = letter == 'k' and children_key(id) or edges_key(id)
      if left <= 0 then
        break
      elseif letter == 'f' then
        local state, fence = match(text, '^(%d+) (%d+)$', 74)
        found[#found + 1] = {id, 'c', fence, sub(text, 38, 73), tonumber(state)}
      else
        members = letter == 'e' and left <= MAX_SETTLED and edges[id] or call('ZRANGE', key, 0, left)
        edges[id] = nil
        for n = #members, left + 1, -1 do
          members[n], is_whole = nil, false
        end
        local state = tonumber(sub(text, 38))
        for _, member in ipairs(members) do
          if letter == 'k' then
            found[#found + 1] = {member}
          elseif match(member, '^[ce]%d+$', 37) then
            found[#found + 1] = {sub(member, 1, 36), sub(member, 37, 37), sub(member, 38), id, state, true}
          else
            lost[#lost + 1] = {id, state}
          end
        end
      end
      left = left - max(1, #members)
      if is_whole then
        unlink(letter ~= 'f' and key or nil)
        add('ZREM', SETTLING, text)
      else
        for _, member in ipairs(members) do
          add('ZREM', key, member)
        end
      end
    end
    return found, left, lost
  end

  local function read(found, lost)
    local ids, keys, records = {}, {}, {}
    for _, one in ipairs(found) do
      local id = one[1]
      if records[id] == nil then
        records[id], ids[#ids + 1], keys[#keys + 1] = false, id, record_key(id)
      end
    end
    for n, raw in ipairs(keys[1] and call('MGET', unpack(keys)) or {}) do
      local id = ids[n]
      records[id] = decode(raw) or false
      if raw and not records[id] and not damaged[id] then
        damaged[id] = true
        set_aside(id, '', 'unreadable record')
      end
    end
    for _, one in ipairs(found) do
      local record, is_edge = records[one[1]], one[6]
      if is_edge and (record and tonumber(one[3]) > record.fence
        or not record and not damaged[one[1]] and call('EXISTS', bad_key(one[1])) == 0) then
        lost[#lost + 1] = {one[4], one[5]}
      end
    end
    return records
  end

  -- Follow up some ends, and write what follows. Return what is left of the limit.
  local function round(left, retention)
    local found, rest, lost = next_ends(left)
    local records, changed, cancelled = read(found, lost), {}, {}

    local function cancel_now(record, id, note)
      cancel(record, id, '', note, retention)
      cancelled[#cancelled + 1] = id
    end

    local function follow(record, id, when, fence, needed, state)
      record.fence_text = record.fence_text or digits(record.fence)
      local thread = not is_final(record.state) and record.fence_text == fence and record.thread
      if thread and when == 'c' and state ~= COMPLETED then
        cancel_now(record, id, format(NOTES[state] or NEED_GONE, needed))
      elseif thread and thread.fence == record.fence then
        thread.needs = max(0, thread.needs - 1)
        changed[#changed + 1] = id
      end
    end

    local function let_go(record, id)
      released[id] = true
      if not is_final(record.state) then
        cancel_now(record, id, PARENT_ENDED)
      elseif not record.releasing then
        set_expiry(record.kind, id, expiry_member(record, id), record.retention, retention)
      end
    end

    for _, one in ipairs(found) do
      local record = records[one[1]]
      if record then
        (one[2] and follow or let_go)(record, unpack(one))
      end
    end
    -- An instance enters its queue after all cancels: one that is cancelled in the same round must not enter.
    for _, id in ipairs(changed) do
      local record = records[id]
      records[id] = nil
      if record and not is_final(record.state) then
        if record.thread.needs == 0 and is_waiting(record) and needs_end_wait(record.thread) then
          enter(record, id)
        else
          put_thread(record)
        end
        put_string(record_key(id), encode(record))
      end
    end
    hint_end(cancelled)
    pass_slots_and_wake()
    write_all()
    if lost[1] then
      mend_edges(lost)
      write_all()
    end
    return rest
  end

  threads = self

  -- Follow up ends, at most `left` edges and children, if the script has ended an instance or `always`. Return whether
  -- more is left; then also send a hint to a live node, `incarnation` if it is one.
  return function(left, retention, always, incarnation)
    if not (has_ends or always) then
      return false
    end
    self.joins = nil
    while left > 0 and call('ZCARD', SETTLING) > 0 do
      left = round(left, retention)
    end
    local is_left = call('ZCARD', SETTLING) > 0
    if is_left then
      hint_settle(incarnation)
      write_all()
    end
    return is_left
  end
end)()
