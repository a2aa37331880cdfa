-- The thread of an instance: what it waits for, the number of its steps, and its parent. An instance without steps,
-- waits, children and parent has none. The entry has
--   flags (1 byte), needs (4), number of steps (2) and of signals (2), bytes of all of them (4), the due time before the
--   wait (8), the fence of the wait (8), the parent after its size (1), the awaited signals after their size (2), and a
--   checksum (4)
-- A wait belongs to a fence: the first four flags, needs and signals mean something only while the fence is that of
-- the record. So a claim ends a wait without a change of the thread, and a later effect on an earlier wait has none.
local WAITS, TIMED, OPEN, JOINS, HAS_CHILDREN = 1, 2, 4, 8, 16

-- What scripts do that can end an instance with a thread or commit one; nil in the others. settle.lua and
-- thread_outcome.lua set it.
local threads = nil

-- Return the thread of a record, a new one if there is none. The caller calls put_thread after its changes.
local function thread_of(record)
  if not record.thread then
    record.thread = {flags = 0, needs = 0, steps = 0, signals = 0, bytes = 0, due = 0, fence = 0, parent = '', awaits = '',
      stop = 1}
  end
  return record.thread
end

-- Put the thread of a record into its tail, in front of the entries of later versions. It has a checksum, because a
-- flipped bit could end a wait without a trace, or let it last for ever.
local function put_thread(record)
  local thread = record.thread
  local size = THREAD_SIZE + #thread.parent + #thread.awaits
  local text = pack(THREAD_ENTRY, THREAD, size, thread.flags, thread.needs, thread.steps, thread.signals, thread.bytes,
    thread.due, thread.fence, #thread.parent, thread.parent, #thread.awaits, thread.awaits)
  record.tail = text .. sum_of(text) .. sub(record.tail or '', thread.stop)
  thread.stop = size + 4
end

-- Count a new step or signal.
local function count_step(thread, name, value)
  local what = sub(name, 1, 1) == SIGNAL_MARK and 'signals' or 'steps'
  thread[what], thread.bytes = thread[what] + 1, thread.bytes + #value
end

-- Keep ends of instances for settle.lua, which describes the entries. A script keeps its ends in their order.
local latest_end = now

local function settle_later(entry_text, other)
  check_zset(SETTLING)
  add_pair('ZADD', SETTLING, latest_end, entry_text)
  if other then
    add_pair('ZADD', SETTLING, latest_end, other)
  end
  latest_end = latest_end + 1
end

-- Return whether an instance is a child that its parent holds: it must not expire.
local function is_held(record, id)
  local parent = record.thread and record.thread.parent or ''
  return parent ~= '' and call('ZSCORE', children_key(parent), id) and true
end

-- Begin a wait under the fence of the record, unless it has begun: needs that were attached before count for it.
local function begin_wait(record, thread)
  if thread.fence ~= record.fence then
    thread.flags, thread.needs, thread.awaits = thread.flags % 32 - thread.flags % 16, 0, ''
    thread.fence = record.fence
  end
end

-- Return whether an instance waits: since its last run, or as a new child. One whose time has come waits no more.
local function is_waiting(record)
  local thread = record.thread
  return record.state == SCHEDULED and thread and present(thread.flags, WAITS) and thread.fence == record.fence
    and not (present(thread.flags, TIMED) and record.due <= now)
end

-- Return whether a wait awaits a signal; between two signals is NUL.
local function awaits_signal(awaits, name)
  return find('\0' .. awaits .. '\0', '\0' .. name .. '\0', 1, true)
end

-- Return whether an instance enters its queue when no need is left.
local function needs_end_wait(thread)
  return present(thread.flags, JOINS) and not present(thread.flags, OPEN)
end

-- End the wait of an instance: it enters its queue, with its due time before the wait. The caller writes the record.
local function enter(record, id)
  local thread = record.thread
  if present(thread.flags, TIMED) then
    remove_from_queue(record, id)
  end
  record.due, thread.flags, thread.needs, thread.awaits = thread.due, thread.flags % 32 - thread.flags % 16, 0, ''
  put_thread(record)
  add_to_queue(id, record.kind, record.priority, record.due, is_suspect(record))
end
