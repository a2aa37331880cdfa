"""The keys of the engine: each key is built here.

| key below `<namespace>/` | value |
|---|---|
| `layout` | layout number |
| `state/<id>` | `Row`: the changing part of an instance; empty, with a lease: the instance was removed |
| `args/<id>` | arguments, never rewritten; small ones are in `Row` |
| `out/<id>`, `progress/<id>` | result and error, unless they are small; progress |
| `log/<id>/<number of the first line>` | a chunk of log lines |
| `unique/<kind>/<key>` | id of the instance that has the key |
| `ready/<kind>/<n or s>/<priority>/<due>/<id>` | due instances; s: suspects, n: others |
| `due/<shard>/<due>/<id>` | delayed instances: `Delayed`, enough to move one without its record |
| `due/@…`, `clock/…` | reserved for later releases: neither read nor counted |
| `by/<kind>/<state>/<id>`, `tag/<tag>/<id>` | indexes; the index of Processing instances is `own` |
| `expiry/<shard>/<time>/<id>` | final instances, by the end of their retention |
| `head/<queue>` | lower bound of a queue, see `queues`; for a ready queue also the group of its kind |
| `group/<kind>`, `groups/<group>` | group of a kind; number of kinds in a group, see `kind_groups` |
| `order/<group>/<priority>/<position>/<kind>/<n or s>` | ready queues of a group, by their lower bounds |
| `own/<incarnation>/<id>` | `Owned`: a claim, without a lease |
| `catalogue/<kind>` | when a node published the kind; with a lease |
| `activity/<n>` | `ActivitySample`: the counts of all nodes in the slot with this number modulo MAX_SLOTS |
| `audit/next`, `audit/<n>` | how many records the audit log ever had; the record with this number modulo MAX_AUDIT |
| `descriptor/<kind>` | the descriptors of a published kind, see `descriptors`; with a lease |
| `node/<incarnation>` | `NodeRow`, without a lease: the node is alive until the row marks it as ended |
| `kinds/<digest>`, `kinds/<digest>/<n>` | stamp and parts of the kinds of nodes with many kinds, see `kind_sets` |
| `ended/<incarnation>` | the incarnation was deleted and never joins again; with a lease of minutes |
| `live/<incarnation>` | `Live`; with the node's lease |
| `clocks/<incarnation>` | `ClockReport`; with the node's lease |
| `idle/<incarnation>` | `Idle`: the node waits for due instances |
| `journal/<incarnation>/<verb>/<n>` | the last answers of a verb, see `answers` |
| `charged/<incarnation>/<id>` | a crash that a reaper charged to the instance |
| `limited/<kind>`, `limit/<name>` | `LimitedKind`, `StoredLimit`: the limits in use, see `limit_rules` |
| `use/<name>` | `RateUse`: how far the rate of a shared limit is used up |
| `permit//<name>/<n>` | id of the instance whose claim holds the permit n of a shared limit |
| `permit/<kind>/<key>/<n>` | `KeyPermit`: an instance that is past the gate of a limit key |
| `permit/<kind>/<key>/c` | the concurrency of the key, if its permits have another one |
| `later/<kind>/<id>` | index of the instances with a limit key that are delayed, or wait in no queue |
| `wait/<kind>/<key>/<priority>/<due>/<id>` | `Waiting`: an instance that waits for a permit of its limit key |
| `step/<id>/<name>` | value of a step, or of a signal, whose name begins with SIGNAL_MARK |
| `outside/<kind>/<id>` | index of the Scheduled instances that wait in no queue, see `thread_rows` |
| `durable` | the namespace has the layout of durable bodies |
| `child/<parent>/<id>` | index of the children of an instance |
| `held/<kind>/<state>/<id>` | index of the final children that their parents hold, which are not in `by` |
| `need/<dependant>/<fence>/<child>` | the dependant needs the child; its wait ends with the last of these keys |
| `for/<child>/<dependant>` | `StoredEdge`: the dependant needs the child |
| `settle/<id>/e` | an instance is over, so its edges are to be settled: its state; 0: it is gone |
| `settle/<id>/k` | an instance is final, so its children are to be let go: the last one that was |
| `settle/<id>/f/<fence>/<child>` | an instance needs a child that had not completed before: the state of the child |
| `watch/<id>/<incarnation>` | the incarnation waits for the end of the instance |
| `changes/<incarnation>` | the incarnation wants hints about all changes, until a time |
| `hint/<incarnation>/<topic>/<id>` | hints that the node has not read yet |
| `count/<kind>/<shard>` | instances per state, to be summed over the shards |
| `counted` | when the counters were last compared with the indexes |
| `aside/<id>` | unreadable records |
| `schedules/now` | `Revisions`: the latest revision of all schedules, and the removals that are still stored |
| `schedule/<name>` | `ScheduleState`: the definition, as `put_schedule` wrote it |
| `next/<name>` | `NextFire`: the part of a schedule that fires change |
| `changed/<revision>/<name>`, `removed/<revision>/<name>` | schedules by revision; removals |
| `now/<request>/<id>` | the answer to a `run_now` request, see `STORED_ANSWERS`; with a lease |
| `removal/<request>` | a request that removed a schedule; with a lease |
| `ledger/<revision of the first put>/<nominal time><f, g, t…>` | `FireRecord`; f: instance, g: gap, t: trigger |
| `slot/<name>` | `SlotRow`: the instance that holds the slot of a schedule, and the parked ones |
| `term/<coordinator>` | the highest term of a coordinator |
| `leader/now`, `leader/left` | `LeaderRow` of the leader, with its lease; of the one that resigned last |
| `leader/token` | random text, a part of the coordinator of terms |

Times and revisions have 18 digits. Priorities are 8 hex digits of p + 2^31. Kinds, keys, tags, coordinators and names
of schedules are percent-escaped. A namespace has no `/`, so no namespace is a prefix of another.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from .base import Range

SHARDS = "0123456789abcdef"
LATEST_US = 10**18 - 1


def prefix_end(prefix: str) -> str:
    """The first key after all keys with a prefix, which must end in `/`."""
    return prefix[:-1] + "0"


def below(prefix: str, limit: int = 0, *, keys_only: bool = False) -> Range:
    """The read of the keys with a prefix, which must end in `/`."""
    return Range(prefix, prefix_end(prefix), limit, keys_only)


def escaped(text: str) -> str:
    """Any text as a part of a key."""
    return quote(text, safe="")


def time_text(time_us: int) -> str:
    """A time as text that sorts like the time."""
    return f"{min(max(time_us, 0), LATEST_US):018d}"


def timed(time_us: int, id: str) -> str:
    """A position in a queue that is sorted by time, then id."""
    return f"{min(max(time_us, 0), LATEST_US):018d}/{id}"


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        root = self.root = f"{namespace}/"
        self.layout = f"{root}layout"
        self.state = f"{root}state/"
        self.args = f"{root}args/"
        self.out = f"{root}out/"
        self.progress = f"{root}progress/"
        self.due = f"{root}due/"
        self.expiry = f"{root}expiry/"
        self.own = f"{root}own/"
        self.audit = f"{root}audit/"
        self.activity = f"{root}activity/"
        self.watched = f"{root}watch/"
        self.node = f"{root}node/"
        self.group = f"{root}group/"
        self.groups = f"{root}groups/"
        self.kinds = f"{root}kinds/"
        self.ended = f"{root}ended/"
        self.live = f"{root}live/"
        self.clocks = f"{root}clocks/"
        self.idle = f"{root}idle/"
        self.changes = f"{root}changes/"
        self.count = f"{root}count/"
        self.counted = f"{root}counted"
        self.set_aside = f"{root}aside/"
        self.schedules = f"{root}schedules/"
        self.revisions = f"{self.schedules}now"
        self.changed = f"{root}changed/"
        self.removed = f"{root}removed/"
        self.slots = f"{root}slot/"
        self.limited = f"{root}limited/"
        self.limits = f"{root}limit/"
        self.all_permits = f"{root}permit/"
        self.shared_permits = f"{self.all_permits}/"
        self.waits = f"{root}wait/"
        self.later = f"{root}later/"
        self.durable = f"{root}durable"
        self.all_children = f"{root}child/"
        self.settling = f"{root}settle/"
        self.every_need = f"{root}need/"
        self.all_outside = f"{root}outside/"
        self.leader = f"{root}leader/"
        self._escaped: dict[str, str] = {}

    def kind(self, kind: str) -> str:
        """A kind, or other text, as a part of a key."""
        known = self._escaped.get(kind)
        if known is None:
            if len(self._escaped) > 10_000:
                self._escaped.clear()
            known = self._escaped[kind] = escaped(kind)
        return known

    def unescaped(self, part: str) -> str:
        """The text of an escaped part of a key."""
        return unquote(part)

    # -- queues: the name of a queue is the prefix of its entries -------------------------------------------------

    def ready(self, kind: str, priority: int, *, suspect: bool) -> str:
        """The queue of due instances of a kind and priority."""
        return f"{self.root}ready/{self.kind(kind)}/{'s' if suspect else 'n'}/{priority + 2**31:08x}/"

    def delayed(self, id: str) -> str:
        """The delayed queue of an id."""
        return f"{self.due}{id[-1]}/"

    def expiring(self, expires_us: int) -> str:
        """The queue of final instances whose retention ends at this time; the second of the time selects the queue."""
        return f"{self.expiry}{SHARDS[expires_us // 1_000_000 % len(SHARDS)]}/"

    def by(self, kind: str, state: int) -> str:
        """The index of a kind and state."""
        return f"{self.root}by/{self.kind(kind)}/{state:d}/"

    def head(self, queue: str) -> str:
        """The head of a queue."""
        return f"{self.root}head/{queue[len(self.root) : -1]}"

    def ready_of(self, kind: str) -> str:
        """Prefix of the ready queues of a kind."""
        return f"{self.root}ready/{self.kind(kind)}/"

    def ready_heads(self, kind: str) -> str:
        """Prefix of the heads of the ready queues of a kind."""
        return f"{self.root}head/ready/{self.kind(kind)}/"

    def queue_of(self, head: str) -> str:
        """The queue of a head."""
        return f"{self.root}{head[len(self.root) + 5 :]}/"

    # -- groups of kinds ------------------------------------------------------------------------------------------

    def group_of(self, kind: str) -> str:
        """The key with the group of a kind."""
        return f"{self.group}{self.kind(kind)}"

    def is_ready(self, queue: str) -> bool:
        """Whether a queue is a ready queue."""
        return queue.startswith("ready/", len(self.root))

    def ready_parts(self, queue: str) -> tuple[str, str, str]:
        """Escaped kind, side (n or s) and priority of a ready queue."""
        kind, side, priority = queue[len(self.root) + 6 : -1].split("/")
        return kind, side, priority

    def order(self, group: str, priority: str) -> str:
        """The index of the ready queues of a group with one priority."""
        return f"{self.root}order/{group}/{priority}/"

    def order_heads(self, group: str) -> str:
        """Prefix of the heads of a group's indexes."""
        return f"{self.root}head/order/{group}/"

    def ordered_queue(self, order: str, position: str) -> str:
        """The ready queue of an entry of an index."""
        kind, side = position.rsplit("/", 2)[1:]
        return f"{self.root}ready/{kind}/{side}/{order[:-1].rsplit('/', 1)[1]}/"

    # -- limits ---------------------------------------------------------------------------------------------------

    def limited_kind(self, kind: str) -> str:
        return f"{self.limited}{self.kind(kind)}"

    def limit(self, name: str) -> str:
        return f"{self.limits}{escaped(name)}"

    def rate_use(self, name: str) -> str:
        return f"{self.root}use/{self.kind(name)}"

    def permits(self, name: str) -> str:
        """Prefix of the permits of a shared limit."""
        return f"{self.shared_permits}{self.kind(name)}/"

    def permit(self, name: str, number: int) -> str:
        return f"{self.permits(name)}{number:06d}"

    def key_permits(self, gate: tuple[str, str]) -> str:
        """Prefix of the permits of a kind and a limit key."""
        kind, key = gate
        return f"{self.all_permits}{self.kind(kind)}/{self.kind(key)}/"

    def waiting(self, gate: tuple[str, str], priority: int | None = None) -> str:
        """The queue of the instances of a priority that wait for a limit key; without one, the prefix of all queues."""
        kind, key = gate
        queues = f"{self.waits}{self.kind(kind)}/{self.kind(key)}/"
        return queues if priority is None else f"{queues}{priority + 2**31:08x}/"

    def gate_of(self, key: str, prefix: str) -> tuple[str, str]:
        """Kind and limit key of a permit or of the head of a queue, after a prefix."""
        kind, limit_key, _ = key[len(prefix) :].split("/", 2)
        return unquote(kind), unquote(limit_key)

    def later_of(self, kind: str) -> str:
        """Prefix of the index of the delayed instances of a kind that have a limit key."""
        return f"{self.later}{self.kind(kind)}/"

    # -- parts of an instance -------------------------------------------------------------------------------------

    def unique(self, kind: str, key: str) -> str:
        return f"{self.root}unique/{self.kind(kind)}/{escaped(key)}"

    def catalogued(self, kind: str) -> str:
        return f"{self.root}catalogue/{self.kind(kind)}"

    def descriptor(self, kind: str) -> str:
        return f"{self.root}descriptor/{self.kind(kind)}"

    def tag(self, tag: str) -> str:
        return f"{self.root}tag/{escaped(tag)}/"

    def log(self, id: str) -> str:
        return f"{self.root}log/{id}/"

    def steps(self, id: str) -> str:
        """Prefix of the steps and signals of an instance."""
        return f"{self.root}step/{id}/"

    def step(self, id: str, name: str) -> str:
        return f"{self.steps(id)}{escaped(name)}"

    def children(self, parent: str) -> str:
        """Prefix of the children of an instance."""
        return f"{self.all_children}{parent}/"

    def held(self, kind: str, state: int) -> str:
        """The index of the held children of a kind and final state."""
        return f"{self.all_held(kind)}{state:d}/"

    def all_held(self, kind: str) -> str:
        """Prefix of the indexes of the held children of a kind."""
        return f"{self.root}held/{self.kind(kind)}/"

    def all_needs(self, dependant: str) -> str:
        """Prefix of what an instance needs or needed, under any fence."""
        return f"{self.every_need}{dependant}/"

    def needs(self, dependant: str, fence: int) -> str:
        """Prefix of what an instance needs under a fence."""
        return f"{self.all_needs(dependant)}{fence}/"

    def edges(self, child: str) -> str:
        """Prefix of the edges of a child, by the instance that needs it."""
        return f"{self.root}for/{child}/"

    def settle(self, id: str, what: str = "") -> str:
        """What is to be settled about an instance."""
        return f"{self.settling}{id}/{what}"

    def failed(self, dependant: str, fence: int, child: str) -> str:
        """What is to be settled about a need of a child that had not completed before."""
        return self.settle(dependant, f"f/{fence}/{child}")

    def outside(self, kind: str) -> str:
        """Prefix of the index of the instances of a kind that wait in no queue."""
        return f"{self.all_outside}{self.kind(kind)}/"

    def watch(self, id: str) -> str:
        return f"{self.watched}{id}/"

    def run_now(self, request: str) -> str:
        return f"{self.root}now/{request}/"

    # -- parts of an incarnation ----------------------------------------------------------------------------------

    def owned(self, incarnation: str) -> str:
        return f"{self.own}{incarnation}/"

    def hint(self, incarnation: str) -> str:
        return f"{self.root}hint/{incarnation}/"

    def answers(self, incarnation: str, verb: str = "") -> str:
        return f"{self.root}journal/{incarnation}/{verb}/" if verb else f"{self.root}journal/{incarnation}/"

    def charged(self, incarnation: str) -> str:
        return f"{self.root}charged/{incarnation}/"

    # -- parts of a schedule --------------------------------------------------------------------------------------

    def schedule(self, name: str) -> str:
        return f"{self.root}schedule/{escaped(name)}"

    def next_fire(self, name: str) -> str:
        return f"{self.root}next/{escaped(name)}"

    def slot(self, name: str) -> str:
        return f"{self.slots}{escaped(name)}"

    def ledger(self, epoch: int) -> str:
        """The ledger of a schedule. A schedule that is removed and put again has another epoch."""
        return f"{self.root}ledger/{epoch:018d}/"

    def removal(self, request: str) -> str:
        return f"{self.root}removal/{request}"

    def term(self, coordinator: str) -> str:
        return f"{self.root}term/{escaped(coordinator)}"
