"""Where everything stands: each key of the engine is built here.

| key below `<namespace>/` | value |
|---|---|
| `layout` | layout number |
| `state/<id>` | `Row`: what changes about an instance |
| `args/<id>` | its arguments, never rewritten |
| `out/<id>`, `progress/<id>` | its result and error; its progress |
| `log/<id>/<number of the first line>` | a chunk of log lines |
| `unique/<kind>/<key>` | id of the instance that has the key |
| `ready/<kind>/<n or s>/<priority>/<due>/<id>` | due, to be claimed; s: suspects |
| `due/<shard>/<due>/<id>` | delayed: `Delayed`, enough to move it without its record |
| `by/<kind>/<state>/<id>`, `tag/<tag>/<id>` | indexes |
| `expiry/<shard>/<time>/<id>` | final instances by the end of their retention |
| `head/<queue>` | where a queue begins, see `lanes` |
| `own/<incarnation>/<id>` | `Owned`: a claim; durable, on no lease |
| `node/<incarnation>` | `NodeRow`; durable: alive until it is marked as ended |
| `live/<incarnation>` | `Live`; hangs on the node's lease |
| `idle/<incarnation>` | `Idle`: waits for work |
| `journal/<incarnation>/<verb>/<n>` | the last answers of a verb |
| `charged/<incarnation>/<id>` | a crash that its reaping charged |
| `watch/<id>/<incarnation>` | wants to hear when an instance is final |
| `changes/<incarnation>` | wants to hear of every change, until a time |
| `hint/<incarnation>/<what>/<id>` | hints not fetched yet |
| `count/<kind>/<lane>` | instances per state, to be summed over the lanes |
| `counted` | when the counters were last compared with the indexes |
| `aside/<id>` | records that could not be read |

Times have 18 digits, priorities are 8 hex digits of p + 2^31, kinds, keys and tags are percent-escaped. A namespace
has no `/`, so none is a prefix of another.
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
        self.node = f"{root}node/"
        self.live = f"{root}live/"
        self.idle = f"{root}idle/"
        self.changes = f"{root}changes/"
        self.count = f"{root}count/"
        self.counted = f"{root}counted"
        self.aside = f"{root}aside/"
        self._escaped: dict[str, str] = {}

    def kind(self, kind: str) -> str:
        """A kind as a part of a key."""
        known = self._escaped.get(kind)
        if known is None:
            if len(self._escaped) > 10_000:
                self._escaped.clear()
            known = self._escaped[kind] = escaped(kind)
        return known

    def unescaped(self, part: str) -> str:
        """The kind that a part of a key stands for."""
        return unquote(part)

    # -- queues: each is named by the prefix of its entries -------------------------------------------------------

    def ready(self, kind: str, priority: int, *, suspect: bool) -> str:
        """The queue of due instances of a kind and priority."""
        return f"{self.root}ready/{self.kind(kind)}/{'s' if suspect else 'n'}/{priority + 2**31:08x}/"

    def delayed(self, id: str) -> str:
        """The queue of delayed instances that an id belongs to."""
        return f"{self.due}{id[-1]}/"

    def expiring(self, id: str) -> str:
        """The queue of final instances that an id belongs to, by the end of their retention."""
        return f"{self.expiry}{id[-1]}/"

    def by(self, kind: str, state: int) -> str:
        """The index of a kind and state."""
        return f"{self.root}by/{self.kind(kind)}/{state:d}/"

    def head(self, queue: str) -> str:
        """The key that says where a queue begins."""
        return f"{self.root}head/{queue[len(self.root) : -1]}"

    def ready_heads(self, kind: str) -> str:
        """Prefix of the heads of a kind's ready queues."""
        return f"{self.root}head/ready/{self.kind(kind)}/"

    def queue_of(self, head: str) -> str:
        """The queue that a head belongs to."""
        return f"{self.root}{head[len(self.root) + 5 :]}/"

    # -- parts of an instance -------------------------------------------------------------------------------------

    def unique(self, kind: str, key: str) -> str:
        return f"{self.root}unique/{self.kind(kind)}/{escaped(key)}"

    def tag(self, tag: str) -> str:
        return f"{self.root}tag/{escaped(tag)}/"

    def log(self, id: str) -> str:
        return f"{self.root}log/{id}/"

    def watch(self, id: str) -> str:
        return f"{self.root}watch/{id}/"

    # -- parts of an incarnation ----------------------------------------------------------------------------------

    def owned(self, incarnation: str) -> str:
        return f"{self.own}{incarnation}/"

    def hint(self, incarnation: str) -> str:
        return f"{self.root}hint/{incarnation}/"

    def journal(self, incarnation: str, verb: str = "") -> str:
        return f"{self.root}journal/{incarnation}/{verb}/" if verb else f"{self.root}journal/{incarnation}/"

    def charged(self, incarnation: str) -> str:
        return f"{self.root}charged/{incarnation}/"
