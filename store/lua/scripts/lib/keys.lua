-- Every key of a namespace. KEYS[1] is the prefix with the hash tag, so all keys share one slot. A kind, tag or
-- incarnation comes last in its key and needs no escaping. keys.py says why KEYS[2] is declared.
local PREFIX = KEYS[1]

local DELAYED = PREFIX .. 'delayed'      -- sorted set: due time -> id, s or -, priority, ":", kind
local KINDS = PREFIX .. 'kinds'          -- hash: kind that has instances or is in a set -> its sets; see kinds.lua
local SETS = PREFIX .. 'sets'            -- hash: set of kinds -> "1" if each of its kinds names it, else ""
local UNUSED = PREFIX .. 'unused'        -- set: sets of kinds without a node, to be forgotten
local INDEXED = PREFIX .. 'indexed'      -- number of sets with an index of heads; absent if there is none
local CATALOGUE = PREFIX .. 'catalogue'  -- sorted set: time of the last publication -> kind
local LEASES = PREFIX .. 'leases'        -- sorted set: expiry -> live incarnation
local DEAD = PREFIX .. 'dead'            -- hash: incarnation marked dead, with claims to take back -> how it ended, name
local IDLE = PREFIX .. 'idle'            -- hash: idle incarnation -> its set of kinds, then the kinds it does not claim now
local WATCHED = PREFIX .. 'watched'      -- hash: id -> incarnations, one a line, that wait for its end
local CHANGES = PREFIX .. 'changes'      -- sorted set: expiry -> incarnation that watches every change
local WATCHING = PREFIX .. 'watching'    -- string that expires with the last entry of CHANGES
local SLOTS = PREFIX .. 'slots'          -- hash: instance that holds the slot of a schedule, or waits for it -> schedule
local SCHEDULES = PREFIX .. 'schedules'  -- sorted set: revision -> schedule
local REMOVED = PREFIX .. 'removed'      -- sorted set: revision of its removal -> schedule, for the last removals
local REVISIONS = PREFIX .. 'revisions'  -- hash: latest; floor: the latest removal that is forgotten
local TERMS = PREFIX .. 'terms'          -- hash: coordinator -> highest term that was seen, or granted here
local LEADER = PREFIX .. 'leader'        -- hash that expires: incarnation, name, term, since, ttl in milliseconds
local CONFIRMED = PREFIX .. 'confirmed'  -- string that expires: confirm.lua writes it, and it is never read
local ASIDE = PREFIX .. 'aside'          -- list: instances that were set aside, newest first
local ASIDE_COUNT = PREFIX .. 'asides'   -- number of instances that were ever set aside

-- Keys by kind are built once for all instances of a batch.
local kind_keys = {}
local function kind_key(what, kind)
  local keys = kind_keys[what]
  if not keys then
    keys = {}
    kind_keys[what] = keys
  end
  local key = keys[kind]
  if not key then
    key = PREFIX .. what .. ':' .. kind
    keys[kind] = key
  end
  return key
end

-- string: the record; see record.lua
local function record_key(id) return PREFIX .. 'i:' .. id end
-- string: arguments and options; never changes
local function spec_key(id) return PREFIX .. 'a:' .. id end
-- list: 4 bytes with the size of the message, then the line
local function logs_key(id) return PREFIX .. 'l:' .. id end
-- string that expires: an instance that was removed while its enqueue may come again; the key `gone` lives as long
local function gone_key(id) return PREFIX .. 'gone:' .. id end
-- an unreadable record, of any type; an empty string if there was no record
local function bad_key(id) return PREFIX .. 'bad:' .. id end
-- sorted set: priority -> due time in 16 digits, id
local function ready_key(kind) return kind_key('q', kind) end
-- as ready_key, for suspects, which are claimed alone
local function suspects_key(kind) return kind_key('s', kind) end
-- sorted set: 0 -> id, so in order of creation
local function index_key(state, kind) return kind_key(state, kind) end
-- as index_key, by tag
local function tag_key(tag) return PREFIX .. 't:' .. tag end
-- sorted set of final instances: expiry -> id, state, "+" if it has tags
local function expiry_key(kind) return kind_key('f', kind) end
-- hash: unique key -> id
local function unique_key(kind) return PREFIX .. 'k:' .. kind end
-- hash: kind, definition, revision, next ("" for none), paused, note, created, updated, last, trimmed, and the nominal time
-- of the stretch with which the next gap may be joined
local function schedule_key(name) return PREFIX .. 'schedule:' .. name end
-- sorted set: nominal time -> record of an instance, or of an attempt by hand; see ledger.lua
local function fired_key(name) return PREFIX .. 'fired:' .. name end
-- sorted set: first nominal time -> record of a stretch
local function gaps_key(name) return PREFIX .. 'gaps:' .. name end
-- sorted set: time of arrival -> instance; the first holds the slot of the schedule, the others wait
local function slot_key(name) return PREFIX .. 'slot:' .. name end
-- set: kinds of a set
local function set_key(set) return PREFIX .. 'set:' .. set end
-- set: incarnations that registered it
local function users_key(set) return PREFIX .. 'users:' .. set end
-- set: idle incarnations that registered it
local function idle_key(set) return PREFIX .. 'idle:' .. set end
-- sorted set: the head of each queue of the set, priority -> due time in 16 digits, id, kind; another for suspects
local function heads_key(set, suspect) return PREFIX .. (suspect and 'shead:' or 'head:') .. set end
-- hash: id -> fence, then s (started), q (suspect), r (releasing), then padding; see claims.lua
local function owned_key(incarnation) return PREFIX .. 'own:' .. incarnation end
-- hash: name, info, shown (when info was written), running, renewed, ttl, steady (see lease.lua), set (of kinds)
local function node_key(incarnation) return PREFIX .. 'node:' .. incarnation end
-- hash: command -> last request and its answer; ended: as in DEAD, if the incarnation has ended. The hash then expires.
local function requests_key(incarnation) return PREFIX .. 'req:' .. incarnation end
-- list: hints
local function wake_key(incarnation) return PREFIX .. 'wake:' .. incarnation end
-- set: instances to which a crash was charged when the incarnation was reaped
local function charged_key(incarnation) return PREFIX .. 'charged:' .. incarnation end
-- string: the answer to one cancel
local function cancelled_key(request) return PREFIX .. 'cancel:' .. request end
-- string that expires: a request that removed a schedule
local function removal_key(request) return PREFIX .. 'removal:' .. request end
