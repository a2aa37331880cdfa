#!lua flags=no-writes
-- A page of instances in order of creation.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     "k" and a kind, "t" and a tag, or "" for all kinds; states (a sum, ignored with a tag);
--          the bounds of ids as ZRANGE BYLEX takes them; "1" for the newest first; limit; bytes after which it ends
-- Reply    {cursor or "", then per instance: id, record or nil, spec or nil}
local SOME = 16
local what, name = sub(ARGV[1], 1, 1), sub(ARGV[1], 2)
local limit, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local keys = what == 't' and {tag_key(name)} or indexes(what == 'k' and name, tonumber(ARGV[2]))
local ids, more = page(keys, ARGV[3], ARGV[4], ARGV[5] == '1', limit)

local reply, bytes, done = {''}, 0, 0
while done < #ids and bytes < most_bytes do
  local wanted = {}
  for n = done + 1, min(done + SOME, #ids) do
    wanted[#wanted + 1], wanted[#wanted + 2] = record_key(ids[n]), spec_key(ids[n])
  end
  local found = call('MGET', unpack(wanted))
  for n = 1, #wanted / 2 do
    done = done + 1
    local raw, spec = found[2 * n - 1], found[2 * n]
    bytes = bytes + (raw and #raw or 0) + (spec and #spec or 0)
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = ids[done], raw, spec
  end
end
if more or done < #ids then
  reply[1] = ids[done]
end
return reply
