#!lua flags=no-writes
-- Read shared limits by name, and then the kinds that are paused or have a key limit, by name.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     a kind, to read only its limits and the kind itself, or ""; "" or the last entry of the page before; limit
-- Reply    {now, the last entry or "" if there are no more; per entry a list}. Of a limit: "l", name, concurrency,
--          period, burst, tat, closed, running, waiting, "1" if it has a setting, note, how many more may start, its
--          kinds. Of a kind: "k", kind, "1" if it is paused, concurrency of its keys, running, waiting, "1" if it has a
--          setting, note, how many more may start
if not shared then
  return {digits(now), ''}
end
local only = ARGV[1] ~= '' and read_rule(ARGV[1])
local chosen = {}
for _, name in ipairs(only and only.names or {}) do
  chosen['l' .. name] = true
end
-- A page reads all fields, of which there can be tens of thousands. So this makes no tables of rules, and sorts only the
-- entries that can be on the page: those up to `bound`.
local LIMIT, KIND = byte('l'), byte('k')
local entries, stored, most, bound = {}, call('HGETALL', LIMITS), tonumber(ARGV[3]), nil
for n = 1, #stored, 2 do
  local field, text = stored[n], stored[n + 1]
  local what, entry_text = byte(field), nil
  if what == LIMIT then
    entry_text = '0' .. sub(field, 2)
  elseif what == KIND and find(text, '^[01] %d+ %d+ ') and sub(text, 1, 6) ~= '0 0 0 ' then
    entry_text = '1' .. sub(field, 2)
  end
  local is_later = entry_text and entry_text > ARGV[2] and not (bound and entry_text > bound)
  if is_later and (not only or chosen[field] or field == 'k' .. ARGV[1]) then
    entries[#entries + 1] = entry_text
  end
  limit_fields[field] = (is_later or not entry_text) and text or nil
  if #entries == 4 * most + 4 then
    table.sort(entries)
    for at = #entries, most + 2, -1 do
      entries[at] = nil
    end
    bound = entries[most + 1]
  end
end
table.sort(entries)

local function row_of_limit(name)
  local limit, rest = limit_of(name), read_limit(name)
  if not limit then
    return nil
  end
  local running, waiting = 0, 0
  for _, kind in ipairs(limit.kinds) do
    running, waiting = running + claimed_of(kind), waiting + queued_of(kind)
  end
  return {'l', name, limit.concurrency, limit.period, limit.burst, digits(limit.tat), digits(limit.closed), running,
    waiting, rest.set and '1' or '', rest.note, digits(max(shared.left(limit), 0)), limit.kinds}
end

local function row_of_kind(kind)
  local rule = read_rule(kind)
  return {'k', kind, rule.paused, rule.by_setting > 0 and rule.by_setting or rule.by_code, claimed_of(kind),
    queued_of(kind), rule.by_setting > 0 and '1' or '', rule.paused == '1' and (limit_field('p' .. kind) or '') or limit_field('s' .. kind) or '',
    digits(shared.room(shared.rule(kind)))}
end

local reply = {digits(now), ''}
for _, entry_text in ipairs(entries) do
  if #reply - 2 == most then
    bound = entry_text
    break
  end
  local name = sub(entry_text, 2)
  local row = sub(entry_text, 1, 1) == '0' and row_of_limit(name) or sub(entry_text, 1, 1) == '1' and row_of_kind(name)
  reply[#reply + 1] = row or nil
  reply.last = entry_text
end
reply[2] = bound and reply.last or ''
return reply
