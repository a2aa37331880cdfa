-- Every key of a namespace. KEYS[1] is the prefix with the hash tag, so all keys share one hash slot of a cluster. A
-- kind, tag or incarnation is the last part of a key, so no escaping is needed. keys.py says why KEYS[2] is declared.
-- A comment gives the type and the content of a key. "a -> b" is score -> member of a sorted set, and field -> value of
-- a hash.
local PREFIX = KEYS[1]

-- sorted set of instances that are not due yet: due time -> id, s (suspect) or -, priority, ":", kind
local DELAYED = PREFIX .. 'delayed'
-- hash of kinds that have instances or are in a set: kind -> its sets; see kinds.lua
local KINDS = PREFIX .. 'kinds'
-- hash of sets of kinds: set -> "1" if each of its kinds names the set, else ""
local SETS = PREFIX .. 'sets'
-- set of sets of kinds that no node uses: forget.lua removes them
local UNUSED = PREFIX .. 'unused'
-- number of sets with an index of heads; the key is absent if there is none
local INDEXED = PREFIX .. 'indexed'
-- sorted set of published kinds: time of the last publication -> kind
local CATALOGUE = PREFIX .. 'catalogue'
-- list of the last records of the audit log, the oldest first
local AUDIT = PREFIX .. 'audit'
-- hash, a ring of slots: position -> the counts of all nodes in a slot; see add_activity.lua
local ACTIVITY = PREFIX .. 'activity'
-- hash of published kinds: kind -> its descriptors; see publish_descriptors.lua
local DESCRIPTORS = PREFIX .. 'descriptors'
-- sorted set of live incarnations: expiry -> incarnation
local LEASES = PREFIX .. 'leases'
-- hash of dead incarnations with claims to take back: incarnation -> how the incarnation ended, name; see takeback.lua
local DEAD = PREFIX .. 'dead'
-- hash of idle incarnations: incarnation -> its set of kinds, and the kinds that it does not claim now
local IDLE = PREFIX .. 'idle'
-- hash of watched instances: id -> incarnations, one a line, that wait for the end of the instance
local WATCHED = PREFIX .. 'watched'
-- sorted set of incarnations that watch every change, which expires after its last entry: expiry -> incarnation
local CHANGES = PREFIX .. 'changes'
-- string that expires together with the last entry of CHANGES
local WATCHING = PREFIX .. 'watching'
-- string that exists while a limit is in use or a kind is paused
local LIMITED = PREFIX .. 'limited'
-- hash of kinds with a limit or a pause: kind -> what holds it back; see limits.lua
local LIMITS = PREFIX .. 'limits'
-- string that exists once the namespace has the layout of steps and children
local FLOWS = PREFIX .. 'flows'
-- sorted set of ends of instances that are not followed up: time of the end -> entry; see settle.lua
local SETTLING = PREFIX .. 'settling'
-- hash of instances that hold the slot of a schedule or wait for the slot: id -> schedule
local SLOTS = PREFIX .. 'slots'
-- sorted set of schedules: revision -> name
local SCHEDULES = PREFIX .. 'schedules'
-- sorted set of the last removed schedules: revision of the removal -> name
local REMOVED = PREFIX .. 'removed'
-- hash with two fields: `latest`, the latest revision, and `floor`, the latest removal that is forgotten
local REVISIONS = PREFIX .. 'revisions'
-- hash of coordinators: coordinator -> highest term that the store has seen, or has granted itself
local TERMS = PREFIX .. 'terms'
-- hash that expires with the leadership: incarnation, name, term, since, ttl in milliseconds
local LEADER = PREFIX .. 'leader'
-- string that expires: confirm.lua writes the key so that there is a write, and no script reads the key
local CONFIRMED = PREFIX .. 'confirmed'
-- list of instances that were set aside, newest first
local ASIDE = PREFIX .. 'aside'
-- number of all instances that were ever set aside, and of other damaged values that were removed or mended
local ASIDE_COUNT = PREFIX .. 'asides'

-- Count stored values that could not be read and were removed or mended. A damaged count starts again.
local function count_damaged(count)
  local before = call('GET', ASIDE_COUNT)
  if before and not whole_number(before) then
    call('SET', ASIDE_COUNT, 0)
  end
  call('INCRBY', ASIDE_COUNT, count)
end

-- A key of a kind is built once per call and kept: many instances of a batch have the same kind.
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

-- string: the record of an instance; see record.lua
local function record_key(id) return PREFIX .. 'i:' .. id end
-- string: the spec of an instance (arguments and options), which never changes
local function spec_key(id) return PREFIX .. 'a:' .. id end
-- list: log lines of an instance, each with the size of its message in 4 bytes in front
local function logs_key(id) return PREFIX .. 'l:' .. id end
-- hash, the steps and signals of an instance: stored name -> value
local function steps_key(id) return PREFIX .. 'c:' .. id end
-- sorted set, the children of an instance that it holds: 0 -> id; see settle.lua
local function children_key(id) return PREFIX .. 'm:' .. id end
-- sorted set, the edges of an instance, from those that need it: 0 -> id, "c" or "e", fence; see settle.lua
local function edges_key(id) return PREFIX .. 'd:' .. id end
-- string that expires: marks an instance that was removed while a repeat of its enqueue can still arrive; the key
-- `gone` says that there are marks
local function gone_key(id) return PREFIX .. 'gone:' .. id end
-- a record that was set aside, of any type; an empty string if the instance had no record
local function bad_key(id) return PREFIX .. 'bad:' .. id end
-- sorted set, the queue of a kind: priority -> due time in 16 digits, id
local function ready_key(kind) return kind_key('q', kind) end
-- sorted set like ready_key, for suspects, which are claimed alone
local function suspects_key(kind) return kind_key('s', kind) end
-- sorted set, the index of a state and kind: 0 -> id; equal scores keep the ids in order of creation
local function index_key(state, kind) return kind_key(state, kind) end
-- hash, the keys of the gate of a kind: key -> what of it is admitted, and how much waits; see gates.lua
-- hash of the instances of a kind with a key: id -> where the instance is, and the key; see gates.lua
-- hash, a shared limit: see limits.lua
local function limit_key(name) return PREFIX .. 'limit:' .. name end
-- set: cancelled instances of a kind with a shared limit, whose bodies still run
local function releasing_key(kind) return kind_key('r', kind) end
-- sorted set like index_key, for the instances with a tag
local function tag_key(tag) return PREFIX .. 't:' .. tag end
-- sorted set of final instances: expiry -> id, state, "+" if it has tags, "*" if it has a thread
local function expiry_key(kind) return kind_key('f', kind) end
-- hash of the unique keys of a kind: unique key -> id
local function unique_key(kind) return PREFIX .. 'k:' .. kind end
-- hash, a schedule: kind, definition, revision, next ("" for none), paused, note, created, updated, last, trimmed,
-- stretch (the nominal time at which the stretch begins that the next gap can extend)
local function schedule_key(name) return PREFIX .. 'schedule:' .. name end
-- sorted set, the ledger of instances: nominal time -> record of an instance, or of an attempt by hand; see ledger.lua
local function fired_key(name) return PREFIX .. 'fired:' .. name end
-- sorted set, the ledger of stretches: first nominal time -> record of the stretch
local function gaps_key(name) return PREFIX .. 'gaps:' .. name end
-- sorted set, the slot of a schedule: time of arrival -> id; the first instance holds the slot, the others wait
local function slot_key(name) return PREFIX .. 'slot:' .. name end
-- set: the kinds of a set of kinds
local function set_key(set) return PREFIX .. 'set:' .. set end
-- set: incarnations that registered a set of kinds
local function users_key(set) return PREFIX .. 'users:' .. set end
-- set: idle incarnations that registered a set of kinds
local function idle_key(set) return PREFIX .. 'idle:' .. set end
-- sorted set, an index of the head of each queue of a set: priority -> due time in 16 digits, id, kind; suspects have
-- another
local function heads_key(set, suspect) return PREFIX .. (suspect and 'shead:' or 'head:') .. set end
-- hash, the claims of an incarnation: id -> fence, s (started), q (suspect), r (releasing), fence, padding; see claims.lua
local function owned_key(incarnation) return PREFIX .. 'own:' .. incarnation end
-- hash, a live incarnation: name, info, shown (when info was written), running, renewed, ttl, steady (see lease.lua),
-- set (of kinds), instruction, reads (the highest layout that the node reads)
local function node_key(incarnation) return PREFIX .. 'node:' .. incarnation end
-- hash, the requests of an incarnation: command -> last request and its answer. When the incarnation has ended, the
-- hash has the field `ended` with the entry of DEAD, and expires.
local function requests_key(incarnation) return PREFIX .. 'req:' .. incarnation end
-- list: hints that an incarnation has not read yet
local function wake_key(incarnation) return PREFIX .. 'wake:' .. incarnation end
-- set: instances to which a crash was charged when the incarnation was marked dead
local function charged_key(incarnation) return PREFIX .. 'charged:' .. incarnation end
-- string that expires: the answer to one cancel request
local function cancelled_key(request) return PREFIX .. 'cancel:' .. request end
-- hash that expires: id -> the answer to one run_now request
local function run_now_key(request) return PREFIX .. 'now:' .. request end
-- string that expires: marks a request that removed a schedule
local function removal_key(request) return PREFIX .. 'removal:' .. request end
