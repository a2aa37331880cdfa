"""Where everything stands: each key of the engine is built here.

| key below `<namespace>/` | value |
|---|---|
| `layout` | layout number |
| `state/<id>` | `Row`: what changes about an instance; empty, on a lease: it was removed, and may be enqueued again |
| `args/<id>` | its arguments, never rewritten; small ones are in `Row` |
| `out/<id>`, `progress/<id>` | its result and error, unless they are small; its progress |
| `log/<id>/<number of the first line>` | a chunk of log lines |
| `unique/<kind>/<key>` | id of the instance that has the key |
| `ready/<kind>/<n or s>/<priority>/<due>/<id>` | due, to be claimed; s: suspects |
| `due/<shard>/<due>/<id>` | delayed: `Delayed`, enough to move it without its record |
| `due/@…`, `clock/…` | of later releases: this one neither reads nor counts them |
| `by/<kind>/<state>/<id>`, `tag/<tag>/<id>` | indexes; of those that are Processing, `own` is the index |
| `expiry/<shard>/<time>/<id>` | final instances by the end of their retention |
| `head/<queue>` | where a queue begins, see `queues`; of a ready queue also the group of its kind |
| `group/<kind>`, `groups/<group>` | the group of a kind; how many kinds a group has, see `groups` |
| `order/<group>/<priority>/<place>/<kind>/<n or s>` | ready queues of the kinds of a group, by where they begin |
| `own/<incarnation>/<id>` | `Owned`: a claim; durable, on no lease |
| `catalogue/<kind>` | when a node published the kind; hangs on a lease |
| `node/<incarnation>` | `NodeRow`; durable: alive until it is marked as ended |
| `kinds/<digest>`, `kinds/<digest>/<n>` | stamp and parts of the kinds of nodes that have many |
| `ended/<incarnation>` | it has ended and been forgotten: it never joins again; hangs on a lease of minutes |
| `live/<incarnation>` | `Live`; hangs on the node's lease |
| `clocks/<incarnation>` | `Told`; hangs on the node's lease |
| `idle/<incarnation>` | `Idle`: waits for work |
| `journal/<incarnation>/<verb>/<n>` | the last answers of a verb |
| `charged/<incarnation>/<id>` | a crash that its reaping charged |
| `watch/<id>/<incarnation>` | wants to hear when an instance is final |
| `changes/<incarnation>` | wants to hear of every change, until a time |
| `hint/<incarnation>/<what>/<id>` | hints not fetched yet |
| `count/<kind>/<lane>` | instances per state, to be summed over the lanes |
| `counted` | when the counters were last compared with the indexes |
| `aside/<id>` | records that could not be read |
| `schedules/now` | `Revisions`: the latest revision of any schedule, and how far removals are remembered |
| `schedule/<name>` | `Schedule`: what `put_schedule` wrote |
| `next/<name>` | `Next`: what a fire changes about a schedule |
| `changed/<revision>/<name>`, `removed/<revision>/<name>` | schedules by revision; removals |
| `removal/<request>` | a request that removed a schedule; goes with a lease |
| `ledger/<revision of the first put>/<nominal time><f, g, t…>` | a `FireRecord`: instance, gap, trigger |
| `slot/<name>` | `Slot`: who has a schedule's slot, and who is parked behind it |
| `term/<coordinator>` | the highest term that was seen |
| `leader/now`, `leader/left` | `Seat`: who leads, on its own lease; who resigned last |
| `leader/token` | random text, a part of what terms belong to |

Times and revisions have 18 digits, priorities are 8 hex digits of p + 2^31; kinds, keys, tags, coordinators and names
of schedules are percent-escaped. A namespace has no `/`, so none is a prefix of another.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

SHARDS = "0123456789abcdef"
LATEST_US = 10**18 - 1


def prefix_end(prefix: str) -> str:
    """The first key after all keys that start with a prefix, which ends in `/`."""
    return prefix[:-1] + "0"


def escaped(text: str) -> str:
    """Any text as a part of a key."""
    return quote(text, safe="")


def time_text(time_us: int) -> str:
    """A time whose text sorts as the time does."""
    return f"{min(max(time_us, 0), LATEST_US):018d}"


def timed(time_us: int, id: str) -> str:
    """A place in a queue that is ordered by time, then id."""
    return f"{min(max(time_us, 0), LATEST_US):018d}/{id}"


class Keys:
    """Keys of one namespace."""

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
        self.leader = f"{root}leader/"
        self._escaped: dict[str, str] = {}

    def kind(self, kind: str) -> str:
        """A kind, or any other text, as a part of a key."""
        known = self._escaped.get(kind)
        if known is None:
            if len(self._escaped) > 10_000:
                self._escaped.clear()
            known = self._escaped[kind] = escaped(kind)
        return known

    def unescaped(self, part: str) -> str:
        """The text that a part of a key stands for."""
        return unquote(part)

    # -- queues: each is named by the prefix of its entries -------------------------------------------------------

    def ready(self, kind: str, priority: int, *, suspect: bool) -> str:
        """The queue of due instances of a kind and priority."""
        return f"{self.root}ready/{self.kind(kind)}/{'s' if suspect else 'n'}/{priority + 2**31:08x}/"

    def delayed(self, id: str) -> str:
        """The queue of delayed instances that an id belongs to."""
        return f"{self.due}{id[-1]}/"

    def expiring(self, expires_us: int) -> str:
        """The queue of final instances whose retention ends then; those that ended together share one."""
        return f"{self.expiry}{SHARDS[expires_us // 1_000_000 % len(SHARDS)]}/"

    def by(self, kind: str, state: int) -> str:
        """The index of a kind and state."""
        return f"{self.root}by/{self.kind(kind)}/{state:d}/"

    def head(self, queue: str) -> str:
        """The key that says where a queue begins."""
        return f"{self.root}head/{queue[len(self.root) : -1]}"

    def ready_of(self, kind: str) -> str:
        """Prefix of a kind's ready queues."""
        return f"{self.root}ready/{self.kind(kind)}/"

    def ready_heads(self, kind: str) -> str:
        """Prefix of the heads of a kind's ready queues."""
        return f"{self.root}head/ready/{self.kind(kind)}/"

    def queue_of(self, head: str) -> str:
        """The queue that a head belongs to."""
        return f"{self.root}{head[len(self.root) + 5 :]}/"

    # -- groups of kinds ------------------------------------------------------------------------------------------

    def group_of(self, kind: str) -> str:
        """The key that says which group a kind belongs to."""
        return f"{self.group}{self.kind(kind)}"

    def is_ready(self, queue: str) -> bool:
        """Whether a queue holds due instances of one kind and priority."""
        return queue.startswith("ready/", len(self.root))

    def ready_parts(self, queue: str) -> tuple[str, str, str]:
        """Escaped kind, side and priority of a ready queue."""
        kind, side, priority = queue[len(self.root) + 6 : -1].split("/")
        return kind, side, priority

    def order(self, group: str, priority: str) -> str:
        """The index of the ready queues of a group that have one priority."""
        return f"{self.root}order/{group}/{priority}/"

    def order_heads(self, group: str) -> str:
        """Prefix of the heads of a group's indexes."""
        return f"{self.root}head/order/{group}/"

    def ordered_queue(self, order: str, place: str) -> str:
        """The ready queue that an entry of an index names."""
        kind, side = place.rsplit("/", 2)[1:]
        return f"{self.root}ready/{kind}/{side}/{order[:-1].rsplit('/', 1)[1]}/"

    # -- parts of an instance -------------------------------------------------------------------------------------

    def unique(self, kind: str, key: str) -> str:
        return f"{self.root}unique/{self.kind(kind)}/{escaped(key)}"

    def catalogued(self, kind: str) -> str:
        return f"{self.root}catalogue/{self.kind(kind)}"

    def tag(self, tag: str) -> str:
        return f"{self.root}tag/{escaped(tag)}/"

    def log(self, id: str) -> str:
        return f"{self.root}log/{id}/"

    def watch(self, id: str) -> str:
        return f"{self.watched}{id}/"

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
        """The queue of a schedule's ledger; a schedule that is made anew has another epoch."""
        return f"{self.root}ledger/{epoch:018d}/"

    def removal(self, request: str) -> str:
        return f"{self.root}removal/{request}"

    def term(self, coordinator: str) -> str:
        return f"{self.root}term/{escaped(coordinator)}"
