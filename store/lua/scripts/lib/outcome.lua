-- What happens when a claim ends: the end of an instance, its way back to the queue, its logs, and retention.

-- An enqueue may come again, as its answer was lost. An instance that is removed so soon leaves its id until then.
-- `created` is by this server's clock: the time in the id is by that of the client, which may be wrong.
local function remember_removed(id, created)
  local left = min(math.ceil((created - now) / 1000) + REPEAT_MS, REPEAT_MS)
  if left > 0 then
    gone[#gone + 1] = {id, left}
  end
end

-- When it came in, unless older history was folded: then a later time.
local function created_at(r)
  local whole, _, at = pcall(unpack_text, '>Bd', r.history)
  return whole and at or now
end

-- Forget a final instance and all that belongs to it; `tags` are those of its record.
local function remove(id, kind, state, tags)
  add('ZREM', index_key(state, kind), id)
  unlink(record_key(id))
  unlink(spec_key(id))
  unlink(logs_key(id))
  each_text(tags, function(tag)
    touch_zset(tag_key(tag))
    add('ZREM', tag_key(tag), id)
  end)
end

local function expiry_member(r, id)
  return id .. r.state .. (r.tags ~= '' and '+' or '')
end

-- Remove up to `most` final instances of a kind whose time is over, or that are too many once `added` come.
local function remove_expired(kind, added, most, max_final)
  local key = expiry_key(kind)
  touch_zset(key)
  if touched[key] == 0 and added <= max_final then
    return 0
  end
  local excess = touched[key] + added - max_final
  local found = call('ZRANGE', key, 0, most - 1, 'WITHSCORES')
  local removed = 0
  for n = 1, #found, 2 do
    if tonumber(found[n + 1]) > now and removed >= excess then
      break
    end
    local member = found[n]
    local id, state, tagged = sub(member, 1, ID_SIZE), match(member, '^(%d+)(%+?)$', ID_SIZE + 1)
    if state then
      local early = tonumber(found[n + 1]) > now
      local r = (early or tagged == '+') and decode(call('MGET', record_key(id))[1])
      if early then
        remember_removed(id, r and created_at(r) or now)
      end
      remove(id, kind, state, r and r.tags or '')
    end
    add('ZREM', key, member)
    removed = removed + 1
  end
  return removed
end

-- It is over, its body included: others may have its unique key and its schedule's slot.
local function set_free(r, id)
  if r.key and call('HGET', unique_key(r.kind), r.key) == id then
    add('HDEL', unique_key(r.kind), r.key)
  end
  if r.slot ~= '' then
    leave_slot(r.slot, id)
    r.slot = ''
  end
end

-- From now on retention may remove it.
local function let_expire(r, id, retention)
  local key, kept = expiry_key(r.kind), r.retention >= 0 and r.retention or retention
  touch_zset(key)
  add_pair('ZADD', key, now + kept, expiry_member(r, id))
  if kept < REPEAT_MS * 1000 then
    remember_removed(id, now)
  end
end

local function finish(r, id, state, node, note, retention)
  local before = r.state
  become(r, state, node, note)
  r.owner = ''
  reindex(r, id, before)
  if not r.releasing then
    let_expire(r, id, retention)
  end
end

-- Scheduled or Processing -> Cancelled. A running one stays in its holder's hands as releasing.
local function cancel(r, id, node, note, retention)
  if r.state == SCHEDULED then
    leave_queue(r, id)
    set_free(r, id)
  else
    local owned = owned_key(r.owner)
    local claim = call('HGET', owned, id)
    if claim then
      local fence, flags = claim_parts(claim)
      add_pair('HSET', owned, id, claim_entry(fence, flags .. 'r'))
      r.releasing = true
      hint(r.owner, 'c' .. id)
    else
      set_free(r, id)
    end
  end
  finish(r, id, CANCELLED, node, note, retention)
  set(record_key(id), encode(r))
  changed(id)
end

local ended_ids, ended_kinds = {}, {}

-- The one way out of a claim: its entry goes, and the instance becomes Scheduled again, or final, or is set free if it was
-- cancelled while it ran. `to` is {state, due, node, note, retention}; nil for an entry whose instance is not claimed. The
-- caller writes the record.
local function end_claim(inc, id, r, to)
  add('HDEL', owned_key(inc), id)
  if not to then
    return
  elseif r.releasing then
    r.releasing = false
    set_free(r, id)
    let_expire(r, id, to.retention)
  elseif to.state == SCHEDULED then
    become(r, SCHEDULED, to.node, to.note)
    r.owner, r.due = '', to.due
    reindex(r, id, PROCESSING)
    let_in(id, r.kind, r.priority, r.due, is_suspect(r))
  else
    finish(r, id, to.state, to.node, to.note, to.retention)
    set_free(r, id)
    ended_ids[#ended_ids + 1] = id
    ended_kinds[r.kind] = (ended_kinds[r.kind] or 0) + 1
  end
end

-- What follows from claims that ended: their waiters hear of it, retention makes room, and others can be claimed.
local function after_claims(max_final)
  ended(ended_ids)
  for kind, added in pairs(ended_kinds) do
    remove_expired(kind, added, 2 * added, max_final)
  end
  settle_slots()
  wake_for_entered()
end

local function message_size(line)
  return #line >= 4 and unpack_text('>I4', line) or 0
end

-- Append lines to an instance's logs, and drop the oldest past the caps.
local function append_logs(r, id, lines, max_lines, max_bytes)
  local key = logs_key(id)
  local kept = call('LLEN', key)
  local total, bytes = kept + #lines, kept > 0 and r.log_bytes or 0
  for _, line in ipairs(lines) do
    bytes = bytes + message_size(line)
  end
  local drop, old, fetched = 0, {}, 0
  while drop < total and (total - drop > max_lines or bytes > max_bytes) do
    local line
    if drop < kept then
      if drop >= fetched then
        old = call('LRANGE', key, fetched, fetched + 99)
        fetched = fetched + 100
      end
      line = old[drop % 100 + 1]
    else
      line = lines[drop - kept + 1]
    end
    bytes = bytes - message_size(line)
    drop = drop + 1
  end
  r.log_total, r.log_bytes = r.log_total + #lines, bytes
  return {key = key, drop = min(drop, kept), from = max(drop - kept, 0) + 1, lines = lines}
end

local function write_logs(plan)
  if plan.drop > 0 then
    call('LTRIM', plan.key, plan.drop, -1)
  end
  for first = plan.from, #plan.lines, SLICE do
    call('RPUSH', plan.key, unpack(plan.lines, first, min(first + SLICE - 1, #plan.lines)))
  end
end
