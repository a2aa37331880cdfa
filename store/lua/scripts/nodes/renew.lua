#!lua flags=allow-oom
-- Extend a lease, even an expired one, unless the incarnation was marked dead.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     incarnation, ttl, running, number of claims, digest of their fences
-- Reply    {} if dead; else {now, all claims as id, fence, id, ... or "" if number and digest match, cancelled ids
--          whose claim has not ended, the instruction or "", "1" if the incarnation must claim, "0" if not, "" if that
--          is not known, microseconds until the first lease of another incarnation ends, number of damaged entries of
--          claims that were replaced by what the records show, 1 if ends of instances must be followed up, else 0}
local incarnation = ARGV[1]
local key = node_key(incarnation)
local ends = call('ZSCORE', LEASES, incarnation)
if not ends then
  -- An incarnation that was marked dead has no key, so this lease was lost by damage.
  if call('EXISTS', key) == 0 then
    return {}
  end
  ends = 0
end
local steady = steady_since(incarnation, tonumber(ARGV[2]))
local claims, held, cancelled, sum
-- Return whether each entry can be read.
local function read_claims()
  claims, held, cancelled, sum = redis.pcall('HGETALL', owned_key(incarnation)), {}, {}, 0
  local last, fence, flags, share
  for n = 1, #claims, 2 do
    -- Most instances of a batch have the same entry.
    if claims[n + 1] ~= last then
      last = claims[n + 1]
      fence, flags = claim_parts(last)
      share = fence and math.fmod(tonumber(fence), 1000003)
    end
    if not fence or #claims[n] ~= ID_SIZE then
      return false
    end
    held[n], held[n + 1] = claims[n], fence
    sum = sum + share
    if flags ~= '' and has_flag(flags, 'r') then
      cancelled[#cancelled + 1] = claims[n]
    end
  end
  return not claims.err
end
local function is_same()
  return #claims / 2 == tonumber(ARGV[4]) and math.fmod(sum, 2147483647) == tonumber(ARGV[5])
end
-- Return whether each id in the reply can be read. Other ids are not checked, since a check of each takes long.
local function are_readable()
  for _, id in ipairs(cancelled) do
    if not is_id(id) then
      return false
    end
  end
  for n = 1, is_same() and 0 or #held, 2 do
    if not is_id(held[n]) then
      return false
    end
  end
  return true
end
local mended = 0
if not read_claims() or not are_readable() then
  mended = mend_claims(incarnation)
  read_claims()
end
local same = is_same()
local due, reap_in = work_due(incarnation), time_to_reap(incarnation, tonumber(ARGV[2]))
if tonumber(ends) > now + tonumber(ARGV[2]) then
  shorten_future_leases(1000)
  reap_in = 0
end
call('ZADD', LEASES, digits(now + tonumber(ARGV[2])), incarnation)
call('HSET', key, 'running', ARGV[3], 'renewed', digits(now), 'steady', steady, 'ttl', ARGV[2])
local settling = layout == FLOWS_LAYOUT and call('EXISTS', SETTLING) or 0
return {digits(now), same and '' or held, cancelled, call('HGET', key, 'instruction') or '', due, digits(reap_in), mended,
  settling}
