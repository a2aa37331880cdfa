-- Every key of a namespace. KEYS[1] is the prefix with the hash tag, so all of them share one slot; a kind, tag or
-- incarnation comes last in its key and needs no escaping. For what KEYS[2] is declared, see keys.py.
local P = KEYS[1]

local DELAYED = P .. 'delayed'     -- sorted set: due time -> id, s or -, priority, ":", kind
local KINDS = P .. 'kinds'         -- hash: kind that has instances or is in a set -> the sets it is in; see kinds.lua
local SETS = P .. 'sets'           -- hash: set of kinds -> "1" when each of its kinds names it, else ""
local UNUSED = P .. 'unused'       -- set: sets of kinds without a node, to be forgotten
local INDEXED = P .. 'indexed'     -- number: how many sets have an index of heads; not there for none
local CATALOGUE = P .. 'catalogue' -- sorted set: when a node published it last -> kind
local LEASES = P .. 'leases'       -- sorted set: expiry -> incarnation; who is in it is alive
local DEAD = P .. 'dead'           -- hash: incarnation marked dead, with claims to take back -> how it ended, name
local IDLE = P .. 'idle'           -- hash: idle incarnation -> its set of kinds, then the kinds it does not claim now
local WATCHED = P .. 'watched'     -- hash: id -> incarnations, one a line, that wait for its end
local CHANGES = P .. 'changes'     -- sorted set: expiry -> incarnation that wants every change
local WATCHING = P .. 'watching'   -- string that expires with the last of these
local SLOTS = P .. 'slots'         -- hash: instance that has a schedule's slot, or waits for it -> schedule
local SCHEDULES = P .. 'schedules' -- sorted set: revision -> schedule
local REMOVED = P .. 'removed'     -- sorted set: revision of its removal -> schedule, for the last removals
local REVISIONS = P .. 'revisions' -- hash: latest; floor: the latest removal that is forgotten
local TERMS = P .. 'terms'         -- hash: coordinator -> highest term that was seen, or granted here
local LEADER = P .. 'leader'       -- hash that expires: incarnation, name, term, since, ttl in milliseconds
local CONFIRMED = P .. 'confirmed' -- string that expires: written by confirm.lua, read by nobody
local ASIDE = P .. 'aside'         -- list: what was set aside, newest first
local ASIDE_COUNT = P .. 'asides'  -- number: how many were, ever

-- Keys by kind are made once for all the instances of a batch.
local kind_keys = {}
local function kind_key(what, kind)
  local keys = kind_keys[what]
  if not keys then
    keys = {}
    kind_keys[what] = keys
  end
  local key = keys[kind]
  if not key then
    key = P .. what .. ':' .. kind
    keys[kind] = key
  end
  return key
end

-- string: the record; see record.lua
local function record_key(id) return P .. 'i:' .. id end
-- string: arguments and options, never rewritten
local function spec_key(id) return P .. 'a:' .. id end
-- list: 4 bytes with the size of the message, then the line
local function logs_key(id) return P .. 'l:' .. id end
-- string that expires: an instance that was removed while its enqueue may come again; P .. 'gone' says that there is one
local function gone_key(id) return P .. 'gone:' .. id end
-- a record that could not be read, of whatever type it is; an empty string when it was not there
local function bad_key(id) return P .. 'bad:' .. id end
-- sorted set: priority -> due time in 16 digits, id
local function ready_key(kind) return kind_key('q', kind) end
-- the same for suspects, which are claimed alone
local function suspects_key(kind) return kind_key('s', kind) end
-- sorted set: 0 -> id, so in order of creation
local function index_key(state, kind) return kind_key(state, kind) end
-- the same by tag
local function tag_key(tag) return P .. 't:' .. tag end
-- sorted set of final instances: when it is over -> id, state, "+" if it has tags
local function expiry_key(kind) return kind_key('f', kind) end
-- hash: unique key -> id
local function unique_key(kind) return P .. 'k:' .. kind end
-- hash: kind, definition, revision, next ("" for none), paused, note, created, updated, last, trimmed, and the nominal time
-- of the stretch that the next gap may be joined with
local function schedule_key(name) return P .. 'schedule:' .. name end
-- sorted set: nominal time -> record of an instance, or of an attempt by hand; see ledger.lua
local function fired_key(name) return P .. 'fired:' .. name end
-- sorted set: first nominal time -> record of a stretch
local function gaps_key(name) return P .. 'gaps:' .. name end
-- sorted set: since when -> instance; the first has the schedule's slot, the others wait for it
local function slot_key(name) return P .. 'slot:' .. name end
-- set: its kinds
local function set_key(set) return P .. 'set:' .. set end
-- set: incarnations that registered it
local function users_key(set) return P .. 'users:' .. set end
-- set: those of them that are idle
local function idle_key(set) return P .. 'idle:' .. set end
-- sorted set: the head of each queue of the set, priority -> due time in 16 digits, id, kind; the same for suspects
local function heads_key(set, suspect) return P .. (suspect and 'shead:' or 'head:') .. set end
-- hash: id -> fence, then s (started), q (suspect), r (releasing), then padding; see claims.lua
local function owned_key(incarnation) return P .. 'own:' .. incarnation end
-- hash: name, info, shown (when that was written), running, renewed, ttl, steady (since when each renewal came in time; see
-- lease.lua), and its set of kinds
local function node_key(incarnation) return P .. 'node:' .. incarnation end
-- hash: verb -> last request and what it takes to answer it again; ended: as in DEAD, of an incarnation that has ended.
-- It expires then.
local function requests_key(incarnation) return P .. 'req:' .. incarnation end
-- list: hints
local function wake_key(incarnation) return P .. 'wake:' .. incarnation end
-- set: instances whose crash was charged when it was reaped
local function charged_key(incarnation) return P .. 'charged:' .. incarnation end
-- string: the answer to one cancel
local function cancelled_key(request) return P .. 'cancel:' .. request end
-- string that expires: a request that removed a schedule
local function removal_key(request) return P .. 'removal:' .. request end
