#!lua flags=allow-oom
-- A process that was marked dead turned out to live: crashes charged for it become losses, up to 500 at a time.
--
-- KEYS     the namespace's prefix, its layout
-- ARGV     its previous incarnation
-- Reply    how many are left
local inc = ARGV[1]
local key = charged_key(inc)
local ids = call('SRANDMEMBER', key, 500)
local ending = call('HGET', DEAD, inc)
if #ids > 0 then
  local keys = {}
  for n, id in ipairs(ids) do
    keys[n] = record_key(id)
  end
  for n, raw in ipairs(call('MGET', unpack(keys))) do
    local r = decode(raw)
    if r and not is_final(r.state) and r.crashes > 0 then
      r.crashes = r.crashes - 1
      r.losses = r.losses + 1
      set(keys[n], encode(r))
    end
  end
  write_all()
  call('SREM', key, unpack(ids))
end
if ending then
  call('HSET', DEAD, inc, string.lower(sub(ending, 1, 1)) .. sub(ending, 2))
end
return call('SCARD', key)
