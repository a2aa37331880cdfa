-- The kinds of a namespace, and the sets of kinds that nodes registered. A kind is known while it has instances or is
-- in a set.
-- The name of a set is a letter and 16 digits of the hash of its kinds. For a small set (letter s), a claim reads the
-- queue of each kind.
-- A set with letter x has an index of the heads of its queues. A set with letter u is large, but has no index, because
-- enough other sets have one.
local SET_SIZE = 17
local MAX_SMALL = 16

-- Kind -> the names of its sets, joined without separators; false if the kind is not known.
local known_kinds = {}

local function load_kinds(kinds)
  if #kinds > 0 then
    for n, sets in ipairs(call('HMGET', KINDS, unpack(kinds))) do
      known_kinds[kinds[n]] = sets
    end
  end
end

local function sets_of(kind)
  if known_kinds[kind] == nil then
    known_kinds[kind] = call('HGET', KINDS, kind)
  end
  return known_kinds[kind]
end

-- Make the kind of a new instance known.
local function register_kind(kind)
  if not sets_of(kind) then
    known_kinds[kind] = ''
    add_pair('HSET', KINDS, kind, '')
  end
end

-- Return some of the kinds, from a cursor on ("0" to begin), and the next cursor ("0" at the end). A kind that exists
-- during the whole scan is returned at least once. A kind that is no text is left out; expire.lua removes it.
local unreadable_kinds = {}

local function some_kinds(cursor, count)
  local found = call('HSCAN', KINDS, cursor, 'COUNT', count)
  local kinds = {}
  for n = 1, #found[2], 2 do
    local kind = found[2][n]
    if not is_text(kind) then
      unreadable_kinds[#unreadable_kinds + 1] = kind
    elseif known_kinds[kind] == nil then
      kinds[#kinds + 1] = kind
    end
    known_kinds[kind] = found[2][n + 1]
  end
  return kinds, found[1]
end

local function has_instances(kind)
  for _, state in ipairs(SINGLE) do
    if call('ZCARD', index_key(state, kind)) > 0 then
      return true
    end
  end
  return false
end

-- Return the number of sets with an index. A damaged number is counted anew.
local function number_of_indexes()
  local stored, count = call('GET', INDEXED), 0
  if not stored or whole_number(stored) then
    return whole_number(stored) or 0
  end
  for n, set in ipairs(call('HGETALL', SETS)) do
    count = count + (n % 2 == 1 and sub(set, 1, 1) == 'x' and 1 or 0)
  end
  call('SET', INDEXED, count)
  return count
end

-- Remove an incarnation from the users of a set. A set without users becomes unused, and forget.lua removes the set
-- later.
local function leave_set(incarnation, set)
  call('SREM', users_key(set), incarnation)
  if call('SCARD', users_key(set)) == 0 then
    call('SADD', UNUSED, set)
  end
end

-- Call f for the head of each queue of a kind. The arguments are the key of the index of heads, and the member and
-- score of the head in the index.
local function each_head(set, kind, f)
  for _, suspect in ipairs({false, true}) do
    local head = call('ZRANGE', suspect and suspects_key(kind) or ready_key(kind), 0, 0, 'WITHSCORES')
    if head[1] then
      f(heads_key(set, suspect), head[1] .. kind, head[2])
    end
  end
end

-- Link kinds with a set, in both directions.
local function link_kinds(set, kinds)
  load_kinds(kinds)
  for _, kind in ipairs(kinds) do
    local sets = sets_of(kind) or ''
    if not find(sets, set, 1, true) then
      add_pair('HSET', KINDS, kind, sets .. set)
    end
    add('SADD', set_key(set), kind)
    if sub(set, 1, 1) == 'x' then
      each_head(set, kind, function(heads, member, score)
        add_pair('ZADD', heads, score, member)
      end)
    end
  end
  write_all()
end

-- Unlink kinds from a set, and forget kinds that are left without sets and instances.
local function unlink_kinds(set, kinds)
  load_kinds(kinds)
  for _, kind in ipairs(kinds) do
    local sets = sets_of(kind) or ''
    local at = find(sets, set, 1, true)
    local rest = at and sub(sets, 1, at - 1) .. sub(sets, at + SET_SIZE) or sets
    if rest == '' and not has_instances(kind) then
      add('HDEL', KINDS, kind)
    else
      add_pair('HSET', KINDS, kind, rest)
    end
    if sub(set, 1, 1) == 'x' then
      each_head(set, kind, function(heads, member)
        add('ZREM', heads, member)
      end)
    end
  end
  write_all()
end

-- Return the name of the set that a node has registered. A "?" in front of the name means that the registration is not
-- complete.
local function set_named(text)
  return text and match(text, '^%??(.+)$')
end
