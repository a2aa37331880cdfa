#!lua flags=allow-oom
-- Add the sample of a node to its slot of the activity. The slot replaces an earlier one at the same place.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     place of the slot in the ring, the sample {slot, {kind -> row}}, the maximum of kinds, of bytes of their names
-- Reply    1
local place, sample = ARGV[1], cmsgpack.unpack(ARGV[2])
local stored = call('HGET', ACTIVITY, place)
local readable, total = pcall(cmsgpack.unpack, stored or '')
if not readable or type(total) ~= 'table' or total[1] ~= sample[1] then
  total = {sample[1], {}}
end

-- A row is a list of counts and of lists of counts. A later version of peerjob can add more of them.
local function sum(one, other)
  for n, count in ipairs(other) do
    if type(count) == 'table' then
      one[n] = sum(one[n] or {}, count)
    else
      one[n] = (one[n] or 0) + count
    end
  end
  return one
end

local function events(row)
  return row[1] + row[2] + row[3] + row[4] + row[5]
end

local rows, kinds, size = total[2], {}, 0
for kind, row in pairs(sample[2]) do
  rows[kind] = sum(rows[kind] or {}, row)
end
for kind in pairs(rows) do
  if kind ~= '' then
    kinds[#kinds + 1], size = kind, size + #kind
  end
end
local max_kinds, room = tonumber(ARGV[3]), tonumber(ARGV[4])
if #kinds > max_kinds or size > room then
  table.sort(kinds, function(a, b)
    local left, right = events(rows[a]), events(rows[b])
    return left > right or left == right and a < b
  end)
  local kept = 0
  for _, kind in ipairs(kinds) do
    if kept < max_kinds and #kind <= room then
      kept, room = kept + 1, room - #kind
    else
      rows[''] = sum(rows[''] or {}, rows[kind])
      rows[kind] = nil
    end
  end
end
call('HSET', ACTIVITY, place, cmsgpack.pack(total))
return 1
