-- Reading of records, with or without the specs (arguments and options), up to a number of bytes.
local FIRST_READ, MAX_READ = 8, 32

-- Call f(n, record, spec) for each ids[n] until `max_bytes` are read; return how many ids were read. The size of the
-- next read assumes records as large as the largest so far.
local function read_payloads(ids, with_specs, max_bytes, f)
  local done, bytes, largest = 0, 0, 1
  while done < #ids and bytes < max_bytes do
    local some = done == 0 and FIRST_READ or max(1, min(MAX_READ, math.floor((max_bytes - bytes) / largest)))
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
