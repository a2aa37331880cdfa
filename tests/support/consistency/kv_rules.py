"""Rules of what a namespace on a key-value store has stored; `keys.py` tells what each key means.

They hold while no call is under way and none was given up: so a transaction that forgets one of several writes breaks
one of them, whichever verb it belongs to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from peerjob.model.state import State
from peerjob.store.kv.format.base import Entry, Range
from peerjob.store.kv.format.keys import Keys, prefix_end, timed
from peerjob.store.kv.format.limit_rows import KeyPermit, decode_key_permit, gate_of, permits_of
from peerjob.store.kv.format.rows import GONE, Row, decode_idle, decode_node, decode_owned, decode_row
from peerjob.store.kv.format.schedule_rows import SlotRow, decode_slot
from peerjob.store.kv.format.thread_rows import is_held, is_outside, thread_of
from peerjob.store.kv.store import KVStore

LEASED = {
    "catalogue", "changes", "clocks", "descriptor", "ended", "hint", "live", "now", "removal", "watch",
}  # fmt: skip
"""The first parts of keys that end with a lease."""
EITHER = {"journal", "charged", "leader", "state", "idle", "kinds"}
"""Those with a lease only at times: after the end of an incarnation, or for a removed instance."""


class Stored:
    """The keys of a namespace, and its records; raises DecodeError for one that is damaged."""

    def __init__(self, keys: Keys, entries: Mapping[str, Entry]) -> None:
        self.keys = keys
        self.entries = entries
        self.rows: dict[str, Row] = {}
        for key, entry in self.below(keys.state):
            if entry.value != GONE:
                self.rows[key] = decode_row(entry.value)
        self.slots = {name: decode_slot(entry.value) for name, entry in self.below(keys.slots)}

    def below(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """The keys with a prefix, without it."""
        for key, entry in self.entries.items():
            if key.startswith(prefix):
                yield key[len(prefix) :], entry

    def parked(self) -> Iterator[tuple[str, SlotRow, str]]:
        """The instances that wait for slots: the schedule, the slot, the id."""
        for name, slot in self.slots.items():
            for one in slot.parked:
                yield name, slot, one.id

    def admitted(self) -> Mapping[str, KeyPermit]:
        """The permits of limit keys, by the instances that have them."""
        found: dict[str, KeyPermit] = {}
        for key, entry in self.below(self.keys.all_permits):
            if not key.startswith("/") and not key.endswith("/c"):
                permit = decode_key_permit(entry.value)
                found[permit.id] = permit
        return found


async def inconsistent(store: KVStore) -> list[str]:
    """What does not fit together in a namespace, in sentences. No other call may be under way."""
    private: Any = store
    keys: Keys = private._context.keys
    (found,) = await private._context.kv.read([Range(keys.root, prefix_end(keys.root))])
    return inconsistent_in(keys, dict(found.items))


def inconsistent_in(keys: Keys, entries: Mapping[str, Entry]) -> list[str]:
    """What does not fit together in these keys."""
    stored = Stored(keys, entries)
    return [wrong for rule in RULES for wrong in rule(stored)]


def leases(stored: Stored) -> Iterator[str]:
    """Each key ends with a lease, or has none."""
    for key, entry in stored.entries.items():
        part = key[len(stored.keys.root) :].partition("/")[0]
        if part not in EITHER and bool(entry.lease) != (part in LEASED):
            yield f"{key} has the lease {entry.lease}"
        if part == "state" and bool(entry.lease) != (entry.value == GONE):
            yield f"{key} has the lease {entry.lease}, and is gone: {entry.value == GONE}"


def indexes(stored: Stored) -> Iterator[str]:
    """Each instance is in the indexes that its record tells, and has the keys that its record tells."""
    wanted: set[str] = set()
    for id, row in stored.rows.items():
        wanted |= _keys_of(stored.keys, id, row)
    parts = ("by", "held", "tag", "unique", "own", "expiry", "outside", "args", "out", "progress")
    found = {key for part in parts for key in (f"{stored.keys.root}{part}/",) for key in _under(stored, key)}
    for key in sorted(wanted - found):
        yield f"{key} is missing"
    for key in sorted(found - wanted):
        yield f"{key} belongs to no instance"
    for id, row in stored.rows.items():
        if row.key is not None and row.keeps:
            entry = stored.entries.get(stored.keys.unique(row.kind, row.key))
            if entry is not None and entry.value != id.encode():
                yield f"{id} has the key {row.key}, which belongs to {entry.value!r}"
        if row.claimed and (entry := stored.entries.get(stored.keys.owned(row.owner) + id)):
            claim = decode_owned(entry.value)
            if (claim.fence, claim.releasing, claim.kind) != (row.fence, row.releasing, row.kind):
                yield f"{id} has the fence {row.fence}, and its claim is {claim}"


def _under(stored: Stored, prefix: str) -> Iterator[str]:
    for rest, _ in stored.below(prefix):
        yield prefix + rest


def _keys_of(keys: Keys, id: str, row: Row) -> set[str]:
    wanted = {f"{keys.tag(tag)}{id}" for tag in row.tags}
    if row.state is State.SCHEDULED or (row.final and not is_held(row)):
        wanted.add(keys.by(row.kind, row.state) + id)
    elif row.final:
        wanted.add(keys.held(row.kind, row.state) + id)
    if row.key is not None and row.keeps:
        wanted.add(keys.unique(row.kind, row.key))
    if row.claimed:
        wanted.add(keys.owned(row.owner) + id)
    if not row.keeps and not is_held(row):
        wanted.add(keys.expiring(row.expires_us) + timed(row.expires_us, id))
    if is_outside(row):
        wanted.add(keys.outside(row.kind) + id)
    if row.spec is None:
        wanted.add(keys.args + id)
    if row.has_out:
        wanted.add(keys.out + id)
    if row.has_progress:
        wanted.add(keys.progress + id)
    return wanted


def queues(stored: Stored) -> Iterator[str]:
    """Each Scheduled instance is in one place: in its queue, delayed, at a gate, behind a slot, or waiting."""
    keys = stored.keys
    places = defaultdict[str, list[str]](list)
    for prefix in (f"{keys.root}ready/", keys.due, keys.waits):
        for rest, _ in stored.below(prefix):
            if not rest.startswith("@"):
                places[rest.rsplit("/", 1)[1]].append(prefix + rest)
    parked, admitted = {id for _, _, id in stored.parked()}, stored.admitted()
    for id, row in stored.rows.items():
        found, gate = places.pop(id, []), gate_of(row)
        permit, later = admitted.get(id), keys.delayed(id) + timed(row.due_us, id)
        due_us = row.due_us if permit is None else permit.queued_us
        ready = keys.ready(row.kind, row.priority, suspect=row.suspect) + timed(due_us, id)
        if row.state is not State.SCHEDULED or is_outside(row) or id in parked:
            wanted = [list[str]()]
        elif gate is None:
            wanted = [[ready], [later]]
        elif permit is not None:
            wanted = [[ready]]
        else:
            wanted = [[later], [keys.waiting(gate, row.priority) + timed(row.due_us, id)]]
        if found not in wanted:
            yield f"{id} is {row.state.name}, and in the queues {found}, not in one of {wanted}"
        is_later = gate is not None and (is_outside(row) or found == [later])
        if is_later != (keys.later_of(row.kind) + id in stored.entries):
            yield f"{id} has the limit key of {gate}, and comes later to its gate: {is_later}"
    for id, found in places.items():
        yield f"{id} does not exist, and is in the queues {found}"


def key_permits(stored: Stored) -> Iterator[str]:
    """Each permit of a limit key belongs to an instance with this key that is not over."""
    for id, permit in stored.admitted().items():
        holder = stored.rows.get(id)
        if holder is None or not holder.keeps or gate_of(holder) is None:
            yield f"{id} has {permit}, and is over or has no limit key"


def heads(stored: Stored) -> Iterator[str]:
    """The head of a queue is a lower bound of its entries."""
    keys = stored.keys
    for prefix in (f"{keys.root}ready/", keys.due, keys.expiry, f"{keys.root}order/"):
        for rest, _ in stored.below(prefix):
            if rest.startswith("@"):
                continue
            parts = (prefix + rest).split("/")
            size = {"ready": 5, "due": 3, "expiry": 3, "order": 4}[prefix[len(keys.root) : -1]]
            queue, position = "/".join(parts[:size]) + "/", "/".join(parts[size:])
            head = stored.entries.get(keys.head(queue))
            if head is None or head.value.decode().partition(" ")[0] >= position:
                yield f"{prefix + rest} is before the head of its queue, {head and head.value!r}"


def slots(stored: Stored) -> Iterator[str]:
    """What a slot has is what the records say."""
    found = {(id, name) for name, _, id in stored.parked()}
    found |= {(slot.holder, name) for name, slot in stored.slots.items() if slot.holder}
    by_row = {
        (id, stored.keys.slot(row.slot)[len(stored.keys.slots) :])
        for id, row in stored.rows.items()
        if row.slot and row.keeps
    }
    if found != by_row:
        yield f"the slots and the records differ: {sorted(found ^ by_row)}"


def permits(stored: Stored) -> Iterator[str]:
    """Each permit of a shared limit belongs to a claim, and each claim has those that its record tells."""
    keys = stored.keys
    found = {(key, entry.value.decode()) for key, entry in stored.below(keys.shared_permits)}
    wanted = {
        (keys.permit(name, number)[len(keys.shared_permits) :], id)
        for id, row in stored.rows.items()
        if row.claimed
        for name, number in permits_of(row)
    }
    if found != wanted:
        yield f"the permits and the records differ: {sorted(found ^ wanted)}"


def values(stored: Stored) -> Iterator[str]:
    """The lines, steps and signals of an instance are as many as its record tells, and belong to one that exists."""
    keys = stored.keys
    counts = defaultdict[str, int](int)
    for part in ("log", "step"):
        for rest, _ in stored.below(f"{keys.root}{part}/"):
            counts[part + rest.split("/")[0]] += 1
    for id, row in stored.rows.items():
        thread = thread_of(row)
        steps = 0 if thread is None else thread.steps + thread.signals
        if steps != counts.pop(f"step{id}", 0):
            yield f"{id} tells {steps} steps and signals"
        if (row.log_next > row.log_first) != bool(counts.pop(f"log{id}", 0)):
            yield f"{id} tells the lines {row.log_first} to {row.log_next}"
    for name in counts:
        yield f"{name} belongs to no instance"


def flows(stored: Stored) -> Iterator[str]:
    """A final instance holds no child, and no instance that is over has edges, unless that is still to be settled."""
    keys = stored.keys
    settling = {tuple(rest.split("/")[:2]) for rest, _ in stored.below(keys.settling)}
    for rest, _ in stored.below(keys.all_children):
        parent, id = rest.split("/")
        child = stored.rows.get(id)
        thread = None if child is None else thread_of(child)
        if thread is None or thread.parent != parent:
            yield f"{parent} has the child {id}, whose record does not tell that"
        elif thread.held and (parent not in stored.rows or stored.rows[parent].final) and (parent, "k") not in settling:
            yield f"{parent} has ended, and holds {id}"
    for rest, _ in stored.below(f"{keys.root}for/"):
        id, dependant = rest.split("/")
        if (id not in stored.rows or not stored.rows[id].keeps) and (id, "e") not in settling:
            yield f"{id} is over, and {dependant} needs it"


def idle_nodes(stored: Stored) -> Iterator[str]:
    """Only a node that has not ended is idle."""
    for incarnation, entry in stored.below(stored.keys.idle):
        decode_idle(entry.value)
        node = stored.entries.get(stored.keys.node + incarnation)
        if node is None or decode_node(node.value).ended:
            yield f"{incarnation} is idle, and has ended"


RULES: Sequence[Callable[[Stored], Iterator[str]]] = (
    leases, indexes, queues, heads, slots, permits, key_permits, values, flows, idle_nodes,
)  # fmt: skip
