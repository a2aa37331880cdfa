#!lua flags=allow-oom
-- Keep the value of a signal, unless its name has one. An instance that waits for the signal enters its queue.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     id, name, value
-- Reply    {A accepted, S the same value is there, O another value is there, F the instance is final, N there is no
--          room, U the id is unknown, or "layout": the namespace has not the layout of signals; set-aside instances}
local id, value, stored_name = ARGV[1], ARGV[3], SIGNAL_MARK .. ARGV[2]
if layout ~= FLOWS_LAYOUT then
  return {'layout', {}}
end
local raw = call('MGET', record_key(id))[1]
local record, stored = decode(raw), call('HGET', steps_key(id), stored_name)
if not record then
  if raw then
    set_aside(id, '', 'unreadable record')
    pass_slots_and_wake()
    write_all()
  end
  return {'U', write_set_aside()}
elseif stored then
  return {stored == value and 'S' or 'O', {}}
elseif is_final(record.state) then
  return {'F', {}}
end
local thread = thread_of(record)
if thread.signals >= MAX_SIGNALS or thread.bytes + #value > MAX_ALL_STEP_BYTES then
  return {'N', {}}
end
count_step(thread, stored_name, value)
add_pair('HSET', steps_key(id), stored_name, value)
if is_waiting(record) and awaits_signal(thread.awaits, ARGV[2]) then
  enter(record, id)
else
  put_thread(record)
end
put_string(record_key(id), encode(record))
hint_change(id)
pass_slots_and_wake()
write_all()
return {'A', {}}
