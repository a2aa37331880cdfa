#!lua
-- Write a schedule if the stored revision and next nominal time are the expected ones. The server refuses the script
-- when the memory of the server is full.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     name, kind, definition, next nominal time ("" for none), "1" if paused, note, expected revision ("0": no
--          schedule), expected next nominal time, limit of records in a ledger, how long a record is kept, record of
--          skipped nominal times as MessagePack, or "", and for a new schedule the latest nominal time that had an
--          instance elsewhere, or "0"
-- Reply    the schedule as in lib/schedule.lua, or nil
local name = ARGV[1]
local key = schedule_key(name)
local revision, next_time, last, trimmed = unpack(call('HMGET', key, 'revision', 'next', 'last', 'trimmed'))
local row = ARGV[7] == '0' and schedule_row(name)
if row and not row[2] then
  -- The schedule cannot be read, so its callers see none: the new one replaces it.
  revision, last, trimmed = nil, is_moment(last) and last, is_moment(trimmed) and trimmed
elseif (revision or '0') ~= ARGV[7] or revision and next_time ~= ARGV[8] then
  return false
end
call('ZCARD', SCHEDULES)
call('ZCARD', gaps_key(name))
call('ZCARD', fired_key(name))
call('ZCARD', slot_key(name))

local new, now_text = digits(next_revision()), digits(now)
local stretch, account = '', ARGV[11] ~= '' and cmsgpack.unpack(ARGV[11])
last = last or ARGV[12]
local written = {}
if account then
  account.at_us = now
  last = digits(max(tonumber(last), ends_at(account)))
  written[add_gap(name, '', account)] = true
  stretch = digits(account.nominal_us)
end
hint_all('s' .. name)

call('HSET', key, 'kind', ARGV[2], 'definition', ARGV[3], 'revision', new, 'next', ARGV[4], 'paused', ARGV[5],
  'note', ARGV[6], 'updated', now_text, 'last', last, 'stretch', stretch)
if not revision then
  call('HSET', key, 'created', now_text, 'trimmed', trimmed or ARGV[12])
end
set_revision('latest', new)
call('ZADD', SCHEDULES, new, name)
write_all()
if account then
  trim_ledger(name, tonumber(ARGV[9]), tonumber(ARGV[10]), trimmed or ARGV[12], written)
end
return schedule_row(name)
