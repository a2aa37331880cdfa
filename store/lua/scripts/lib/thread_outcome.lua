-- What an outcome does to the thread of its instance: it keeps steps, and begins a wait. Only the script commit_linked has
-- this. Further letters of an outcome: the action S suspend; k number of steps, and the name and the value of each; m
-- number of needs, and the id of each; with S: u the time, g the signals with NUL between, and j (no argument) the needs that end the wait.
local thread_outcome = nil
if layout ~= FLOWS_LAYOUT then
  return {'layout'}
end
threads.settle, threads.joins = settle, joins
do
  local STEPS, NEEDS, UNTIL, SIGNAL, JOIN = byte('kmugj', 1, 5)
  -- the steps that were read or are planned: id -> stored name -> value, or false if there is none
  local kept = {}

  -- Read the arguments of a letter into fields.thread. Return the next position, or nil if the letter is unknown.
  function threads.read(letter, fields, position)
    local given = fields.thread or {names = {}, values = {}, needs = {}}
    fields.thread = given
    if letter == STEPS then
      for n = 1, tonumber(ARGV[position]) do
        given.names[n], given.values[n] = ARGV[position + 2 * n - 1], ARGV[position + 2 * n]
      end
      return position + 1 + 2 * #given.names
    elseif letter == NEEDS then
      for n = 1, tonumber(ARGV[position]) do
        given.needs[n] = 'e' .. ARGV[position + n]
      end
      return position + 1 + #given.needs
    elseif letter == JOIN then
      given.joins = true
      return position
    elseif letter == UNTIL then
      given.at = min(LATEST, tonumber(ARGV[position]))
    elseif letter == SIGNAL then
      given.awaits = ARGV[position]
    else
      return nil
    end
    return position + 1
  end

  -- Read the steps of some names, if they are not read yet. Return all steps that are known.
  local function read_steps(id, names)
    local known, unknown = kept[id] or {}, {}
    kept[id] = known
    for _, name in ipairs(names) do
      unknown[#unknown + 1] = known[name] == nil and name or nil
    end
    for n, value in ipairs(unknown[1] and call('HMGET', steps_key(id), unpack(unknown)) or {}) do
      known[unknown[n]] = value
    end
    return known
  end

  -- Keep the steps and the needs of an outcome. Return false, and keep nothing, if a name has another value.
  function threads.keep(record, id, given)
    local names, values = given.names, given.values
    local known, thread, is_new = read_steps(id, names), thread_of(record), false
    for n, name in ipairs(names) do
      if known[name] and known[name] ~= values[n] then
        return false
      end
    end
    for n, name in ipairs(names) do
      if not known[name] then
        count_step(thread, name, values[n])
        add_pair('HSET', steps_key(id), name, values[n])
        known[name], is_new = values[n], true
      end
    end
    if is_new then
      record.crashes, record.losses = 0, 0
    end
    if given.needs[1] then
      begin_wait(record, thread)
      attach(id, thread, record.fence, id, given.needs, {})
    end
    put_thread(record)
    return true
  end

  -- Begin the wait of an instance whose run ends: set `due` and `waits` of the end, unless the wait is over at once.
  function threads.suspend(record, id, given, to)
    local thread, awaits, names, is_over = thread_of(record), given.awaits or '', {}, false
    for name in string.gmatch(awaits, '[^%z]+') do
      names[#names + 1] = SIGNAL_MARK .. name
    end
    local known = read_steps(id, names)
    for _, name in ipairs(names) do
      is_over = is_over or known[name]
    end
    record.crashes, record.losses = 0, 0
    to.note = to.note ~= '' and to.note or SUSPENDED
    begin_wait(record, thread)
    thread.due = record.due
    if not (is_over or given.joins and thread.needs == 0) then
      thread.flags, thread.awaits = thread.flags + WAITS + (given.at and TIMED or 0) + (given.joins and JOINS or 0), awaits
      to.due, to.waits = given.at or record.due, not given.at
    end
    put_thread(record)
  end
end
