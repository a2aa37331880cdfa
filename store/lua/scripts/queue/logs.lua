#!lua flags=no-writes
-- Read a page of the log lines of one instance.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     id, number of the first line, limit, bytes after which the page ends
-- Reply    {number of lines dropped at the limit, number of the next line, the lines}
local SOME = 50
local id, from, left, bytes_left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local record = decode(call('MGET', record_key(id))[1])
local kept = call('LLEN', logs_key(id))
local dropped = record and max(record.log_total - kept, 0) or 0
from = max(from, dropped)
local lines = {}
while left > 0 and bytes_left > 0 do
  local start = from - dropped + #lines
  local some = call('LRANGE', logs_key(id), start, start + min(left, SOME) - 1)
  for _, line in ipairs(some) do
    if bytes_left > 0 then
      lines[#lines + 1] = line
      bytes_left = bytes_left - #line
    end
  end
  left = #some < SOME and 0 or left - #some
end
return {digits(dropped), digits(from + #lines), lines}
