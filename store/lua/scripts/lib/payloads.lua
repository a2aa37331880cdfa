-- Reading records, with or without their arguments, within a number of bytes.
local FIRST_READ, MAX_READ = 8, 32

-- Call f(n, record, spec) for ids[n], one after the other until `most_bytes` were read; answers how many were read. As large
-- as those read so far may be those that come next.
local function read_payloads(ids, with_specs, most_bytes, f)
  local done, bytes, largest = 0, 0, 1
  while done < #ids and bytes < most_bytes do
    local some = done == 0 and FIRST_READ or max(1, min(MAX_READ, math.floor((most_bytes - bytes) / largest)))
    local keys, step = {}, with_specs and 2 or 1
    for n = done + 1, min(done + some, #ids) do
      keys[#keys + 1] = record_key(ids[n])
      if with_specs then
        keys[#keys + 1] = spec_key(ids[n])
      end
    end
    local found = call('MGET', unpack(keys))
    for n = 1, #keys, step do
      local raw, spec = found[n], with_specs and found[n + 1]
      local size = (raw and #raw or 0) + (spec and #spec or 0)
      done, bytes, largest = done + 1, bytes + size, max(largest, size)
      f(done, raw, spec)
    end
  end
  return done
end
