"""Rules of what a namespace on Redis or Valkey has stored; `keys.lua` tells what each key means.

They hold after each script. So a script that forgets one of several writes breaks one of them, whichever script it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Set

from peerjob.model.record import Record
from peerjob.model.state import SINGLE, State
from peerjob.store.lua.commands.thread import parent_tag
from peerjob.store.lua.store import LuaStore

from .lua_snapshot import Snapshot, snapshot

EXPIRING = {
    "bad", "cancel", "changes", "charged", "confirmed", "gone", "leader", "now", "removal", "wake", "watching",
}  # fmt: skip
"""The first parts of keys that have an expiry."""
STAYING = {
    "2", "4", "8", "16", "32", "64", "activity", "aside", "asides", "audit", "catalogue", "d", "dead", "delayed",
    "descriptors", "f", "fired", "flows", "g", "gaps", "head", "i", "idle", "indexed", "k", "kinds", "layout", "leases",
    "limit", "limited", "limits", "m", "n", "node", "own", "q", "r", "removed", "revisions", "s", "schedule",
    "schedules", "set", "sets", "settling", "shead", "slot", "slots", "t", "terms", "unused", "users", "w", "watched",
}  # fmt: skip
"""The first parts of keys that have none. Those of an instance (a, l, c) have one when its record was set aside."""
_OF_INSTANCE = {"a", "l", "c"}
_PLACE = 16
"""Digits of a due time in a queue."""
_HELD_SIZE = 52
"""Bytes of a waiting instance in the entry of its key."""


async def inconsistent(store: LuaStore) -> list[str]:
    """What does not fit together in a namespace, in sentences. No other client may write meanwhile."""
    stored = await snapshot(store)
    return [wrong for rule in RULES for wrong in rule(stored)]


def expiries(stored: Snapshot) -> Iterator[str]:
    """Each key has an expiry, or has none."""
    for key, one in stored.keys.items():
        part, _, rest = key.partition(":")
        expires = one.ttl_ms >= 0
        if part == "req":
            if expires != ("ended" in one.pairs) and f"node:{rest}" in stored.keys:
                yield f"{key} of a live incarnation expires: {expires}"
        elif part in _OF_INSTANCE:
            if expires == (rest in stored.records):
                yield f"{key} expires: {expires}, and the instance exists: {not expires}"
        elif part not in EXPIRING | STAYING:
            yield f"{key}: no list tells whether it expires"
        elif expires != (part in EXPIRING):
            yield f"{key} expires: {expires}"


def indexes(stored: Snapshot) -> Iterator[str]:
    """Each instance is in the index of its state and in those of its tags and its parent, and has arguments."""
    wanted = defaultdict[str, set[str]](set)
    for id, record in stored.records.items():
        wanted[f"{record.state:d}:{record.kind}"].add(id)
        for tag in (*record.tags, *([parent_tag(record.parent)] if record.parent else [])):
            wanted[f"t:{tag}"].add(id)
        if f"a:{id}" not in stored.keys:
            yield f"{id} has no arguments"
    parts = {f"{state:d}" for state in SINGLE} | {"t"}
    found = {key: set(one.pairs) for key, one in stored.keys.items() if key.partition(":")[0] in parts and ":" in key}
    yield from _unlike(wanted, found)


def unique_keys(stored: Snapshot) -> Iterator[str]:
    """Each instance that is not over has its unique key."""
    wanted = defaultdict[str, dict[str, str]](dict)
    for id, record in stored.records.items():
        if record.key is not None and not stored.is_over(id):
            wanted[f"k:{record.kind}"][record.key] = id
    found = {f"k:{kind}": {key: id.decode() for key, id in one.pairs.items()} for kind, one in stored.named("k")}
    yield from _unlike(wanted, found)


def claims(stored: Snapshot) -> Iterator[str]:
    """Each instance that is claimed, or whose body still runs, belongs to one incarnation."""
    holders = defaultdict[str, list[str]](list)
    for incarnation, one in stored.named("own"):
        for id in one.pairs:
            holders[id].append(incarnation)
        if f"node:{incarnation}" not in stored.keys and incarnation not in stored.pairs("dead"):
            yield f"{incarnation} has claims, and neither lives nor waits for a reap"
    for id, record in stored.records.items():
        count = 1 if record.state is State.PROCESSING or id in stored.releasing else 0
        if len(holders[id]) != count:
            yield f"{id} is {record.state.name}, and {holders[id]} have claims of it"
    for kind, one in stored.named("r"):
        for id in one.members:
            if id not in stored.releasing or stored.records[id].kind != kind:
                yield f"r:{kind} has {id}, whose body does not run"


def entries_of_claims(stored: Snapshot) -> Iterator[str]:
    """The entry of a claim is as the record tells."""
    for incarnation, one in stored.named("own"):
        for id, text in one.pairs.items():
            entry, record = text.split()[0].decode(), stored.records.get(id)
            runs_on = id in stored.releasing
            if record is None:
                yield f"{incarnation} has a claim of {id}, which does not exist"
            elif entry.rstrip("rsq") != f"{record.fence}" or ("r" in entry) != runs_on:
                yield f"{incarnation} has a claim {entry} of {id}: fence {record.fence}, runs on: {runs_on}"
            elif record.owner != incarnation and not runs_on:
                yield f"{incarnation} has a claim of {id}, which belongs to {record.owner}"


def queues(stored: Snapshot) -> Iterator[str]:
    """Each Scheduled instance is in one place: in its queue, delayed, at a gate, behind a slot, or waiting."""
    places = defaultdict[str, list[str]](list)
    for part in ("q", "s"):
        for kind, one in stored.named(part):
            for member, score in one.pairs.items():
                id = member[_PLACE:]
                places[id].append(f"{part}:{kind} at {member[:_PLACE]} with {float(score):g}")
    for member, score in stored.pairs("delayed").items():
        if not member.startswith("@"):
            places[member[:36]].append(f"delayed {member[36:]} at {float(score):.0f}")
    for id, record in stored.records.items():
        found, wanted = places.pop(id, []), _places(stored, id, record)
        if len(found) > 1 or not {*(found or ["none"])} <= wanted:
            yield f"{id} is {record.state.name}, and in the queues {found}, not in one of {sorted(wanted)}"
    for id, found in places.items():
        yield f"{id} does not exist, and is in the queues {found}"


def _places(stored: Snapshot, id: str, record: Record) -> Set[str]:
    """The places that an instance can have."""
    letter, place, _ = stored.gates.get(record.kind, {}).get(id, ("", 0, ""))
    waits = record.wait is not None and record.wait.until_us is None
    slot = [member for member, _ in _sorted(stored.pairs(f"slot:{record.slot}"))] if record.slot else []
    if record.state is not State.SCHEDULED or waits or letter in ("w", "W") or id in slot[1:]:
        return {"none"}
    is_suspect = record.crashes + record.losses >= 2
    later = f"delayed {'s' if is_suspect else '-'}{record.priority}:{record.kind} at {record.due_us}"
    due_us = place if letter == "q" else record.due_us
    queue = f"{'s' if is_suspect else 'q'}:{record.kind} at {due_us:016} with {record.priority:g}"
    return {queue} if letter == "q" else {later} if letter == "-" else {later, queue}


def heads(stored: Snapshot) -> Iterator[str]:
    """An index of heads has the first entry of each queue of its set."""
    for index, part in (("head", "q"), ("shead", "s")):
        wanted = defaultdict[str, dict[str, float]](dict)
        for name, one in stored.named("set"):
            for kind in one.members if name.startswith("x") else ():
                if first := _sorted(stored.pairs(f"{part}:{kind}"))[:1]:
                    wanted[f"{index}:{name}"][first[0][0] + kind] = first[0][1]
        found = {f"{index}:{name}": {k: float(v) for k, v in one.pairs.items()} for name, one in stored.named(index)}
        yield from _unlike(wanted, found)
    count = sum(name.startswith("x") for name in stored.pairs("sets"))
    if count != (int(stored.keys["indexed"].entries[0]) if "indexed" in stored.keys else 0):
        yield f"`indexed` does not tell that {count} sets have an index"


def sets_of_kinds(stored: Snapshot) -> Iterator[str]:
    """Kinds and sets name each other, as do sets and the nodes that registered them, and the idle ones."""
    kinds = {kind: sets.decode() for kind, sets in stored.pairs("kinds").items()}
    by_kind = {(kind, sets[at : at + 17]) for kind, sets in kinds.items() for at in range(0, len(sets), 17)}
    by_set = {(kind, name) for name, one in stored.named("set") for kind in one.members}
    if by_kind != by_set:
        yield f"kinds and sets do not name each other: {sorted(by_kind ^ by_set)}"
    for id, record in stored.records.items():
        if record.kind not in kinds:
            yield f"{id} has the kind {record.kind}, which is not among the kinds"
    by_node = {
        (text.decode().lstrip("?"), incarnation)
        for incarnation, one in stored.named("node")
        if (text := one.pairs.get("set"))
    }
    by_users = {(name, incarnation) for name, one in stored.named("users") for incarnation in one.members}
    if by_node != by_users:
        yield f"nodes and the users of sets do not name each other: {sorted(by_node ^ by_users)}"
    without = {name for name in stored.pairs("sets") if f"users:{name}" not in stored.keys}
    unused = stored.keys["unused"].members if "unused" in stored.keys else set[str]()
    if without != unused:
        yield f"the sets without users are {without}, and `unused` has {unused}"
    idle = {(text[:17].decode(), incarnation) for incarnation, text in stored.pairs("idle").items()}
    by_idle = {(name, incarnation) for name, one in stored.named("idle") for incarnation in one.members}
    if idle != by_idle:
        yield f"`idle` and the idle ones of sets do not name each other: {sorted(idle ^ by_idle)}"


def nodes(stored: Snapshot) -> Iterator[str]:
    """Each incarnation with a lease has a node, and each node has a lease."""
    leases = set(stored.pairs("leases"))
    known = {incarnation for incarnation, one in stored.named("node") if "name" in one.pairs}
    if leases != known:
        yield f"leases and nodes do not name each other: {sorted(leases ^ known)}"


def slots(stored: Snapshot) -> Iterator[str]:
    """The index of slots has what is in the slots, which is what the records say."""
    found = {(id, name) for name, one in stored.named("slot") for id in one.pairs}
    index = {(id, name.decode()) for id, name in stored.pairs("slots").items()}
    if found != index:
        yield f"the slots and their index differ: {sorted(found ^ index)}"
    by_record = {(id, record.slot) for id, record in stored.records.items() if record.slot}
    if found != by_record:
        yield f"the slots and the records differ: {sorted(found ^ by_record)}"


def retention(stored: Snapshot) -> Iterator[str]:
    """Each instance that is over, and that no parent holds, expires."""
    wanted = defaultdict[str, set[str]](set)
    held = {id for _, one in stored.named("m") for id in one.pairs}
    for id, record in stored.records.items():
        if stored.is_over(id) and id not in held:
            marks = "+" * bool(record.tags or record.parent) + "*" * (id in stored.with_thread)
            wanted[f"f:{record.kind}"].add(f"{id}{record.state:d}{marks}")
    yield from _unlike(wanted, {f"f:{kind}": set(one.pairs) for kind, one in stored.named("f")})
    for kind, one in stored.named("f"):
        for member, score in one.pairs.items():
            ended = stored.records.get(member[:36])
            if ended is not None and float(score) < ended.history[-1].at_us:
                yield f"{ended.id} of {kind} expires before its end"


def logs_and_steps(stored: Snapshot) -> Iterator[str]:
    """The sizes in a record are those of its lines and steps."""
    for id, (total, size) in stored.log_sizes.items():
        lines = stored.keys[f"l:{id}"].entries if f"l:{id}" in stored.keys else []
        found = sum(int.from_bytes(line[:4]) for line in lines)
        if size != found or len(lines) > total:
            yield f"{id} has {len(lines)} lines of {found} bytes, and its record tells {total} and {size}"
        if stored.records[id].has_steps != (f"c:{id}" in stored.keys):
            yield f"{id} has steps: {not stored.records[id].has_steps}, and its record does not tell that"


def flows(stored: Snapshot) -> Iterator[str]:
    """A final instance holds no child, and no instance that is over has edges, unless `settle` is still to come."""
    settling = {text[:37] for text in stored.pairs("settling")}
    for parent, one in stored.named("m"):
        record = stored.records.get(parent)
        if (record is None or record.state.is_final) and f"k{parent}" not in settling:
            yield f"{parent} has ended, and holds {sorted(one.pairs)}"
        for id in one.pairs:
            if id not in stored.records or stored.records[id].parent != parent:
                yield f"{parent} holds {id}, which is not its child"
    for id in [id for id, _ in stored.named("d")]:
        if (id not in stored.records or stored.is_over(id)) and f"e{id}" not in settling:
            yield f"{id} is over, and others need it"


def schedules(stored: Snapshot) -> Iterator[str]:
    """Each schedule is in the index of revisions, and each ledger belongs to a schedule."""
    index = {name: int(float(revision)) for name, revision in stored.pairs("schedules").items()}
    found = {name: int(one.pairs.get("revision", b"0")) for name, one in stored.named("schedule")}
    yield from _unlike({"schedules": index}, {"schedules": found})
    for part in ("fired", "gaps"):
        for name, _ in stored.named(part):
            if name not in found:
                yield f"{part}:{name} belongs to no schedule"


def watchers(stored: Snapshot) -> Iterator[str]:
    """Only an instance that is not final is watched."""
    for id in stored.pairs("watched"):
        if id not in stored.records or stored.records[id].state.is_final:
            yield f"{id} is watched, and has ended"


def gates(stored: Snapshot) -> Iterator[str]:
    """The entry of a limit key counts its instances, and those that wait are where it says."""
    wanted, waiting = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    for kind, entries in stored.gates.items():
        for id, (letter, _, key) in entries.items():
            record = stored.records.get(id)
            if record is None or stored.is_over(id):
                yield f"{id} is over, and has the key {key} of {kind}"
            elif letter == "q":
                wanted[kind][key] += 1
            elif letter in ("w", "W"):
                waiting[kind][key] += 1
            if record is not None and letter != "q" and record.state is State.PROCESSING:
                yield f"{id} runs, and is not admitted for the key {key} of {kind}"
    for kind in {*wanted, *waiting, *(kind for kind, _ in stored.named("n"))}:
        for key in {*stored.pairs(f"n:{kind}"), *wanted[kind], *waiting[kind]}:
            text = stored.pairs(f"n:{kind}").get(key, bytes(12))
            admitted = int.from_bytes(text[1:4])
            count = int.from_bytes(text[8:12])
            held = count if text[0] == 1 else 0
            in_set = len(stored.pairs(f"w:{len(kind.encode())}:{kind}{key}"))
            if (admitted, count) != (wanted[kind][key], waiting[kind][key]) or held + in_set != count:
                yield (
                    f"the key {key} of {kind} counts {admitted} admitted and {count} waiting, of which {held} are in "
                    f"its entry and {in_set} in its set; there are {wanted[kind][key]} and {waiting[kind][key]}"
                )


def _sorted(pairs: Mapping[str, bytes]) -> list[tuple[str, float]]:
    """The members of a sorted set in its order, with their scores."""
    return sorted(((member, float(score)) for member, score in pairs.items()), key=lambda pair: (pair[1], pair[0]))


def _unlike(wanted: Mapping[str, object], found: Mapping[str, object]) -> Iterator[str]:
    for key in sorted({*wanted, *found}):
        if wanted.get(key) != found.get(key):
            yield f"{key} has {found.get(key)}, not {wanted.get(key)}"


RULES: tuple[Callable[[Snapshot], Iterator[str]], ...] = (
    expiries, indexes, unique_keys, claims, entries_of_claims, queues, heads, sets_of_kinds, nodes, slots, retention,
    logs_and_steps, flows, schedules, watchers, gates,
)  # fmt: skip
