"""Groups of kinds: an index of ready queues for each set of kinds that nodes register together.

A node with many kinds cannot read the head of each of their queues with every claim. So each of its kinds gets a group,
and the ready queues of a group stand in one index, by priority and by where they begin (`queues`). A claim reads the
beginning of the indexes of its groups, whatever the number of kinds.

The groups of a node hold its own kinds only: a node that finds others in a group moves its own kinds to another group.
So there are as many groups as nodes register kinds differently. A group has a marker, `groups/<group>`, that is written
whenever a kind comes or goes; a claim reads the markers along, and looks at its groups anew when one has changed.

The group of a kind is changed first, then the heads of its queues follow. Each of these steps can be repeated, and each
process does what is left of it before it uses the groups, so none depends on the process that began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from peerjob.model.errors import StoreUnavailableError

from .base import Compare, Delete, Entry, Found, KeyValue, Op, Put, Range, Step
from .keys import Keys, prefix_end
from .kind_sets import KindSets
from .queues import Head, Queues
from .rows import count_of, encode, node_of
from .writer import ROUNDS

_MAX_MOVED = 100
"""Most kinds whose group one step changes."""
_MANY = 8
"""Groups of one node, above which those that no node tells apart become one."""
_PAGE = 1_000


class Groups(msgspec.Struct, frozen=True):
    """The groups of the kinds of one node, as read."""

    kinds: tuple[str, ...]
    names: Mapping[str, str]
    """Escaped kind → kind."""
    marks: Mapping[str, int]
    """Group → revision of its marker."""

    def hold(self, marks: Iterable[Found]) -> bool:
        """Whether these reads of the markers show them unchanged."""
        return [found.items[0][1].mod if found.items else 0 for found in marks] == [*self.marks.values()]


class _Kind(msgspec.Struct, frozen=True):
    group: str
    mod: int


class Grouping:
    """Puts kinds into groups."""

    def __init__(self, kv: KeyValue, keys: Keys, queues: Queues, kind_sets: KindSets) -> None:
        self._kv = kv
        self._keys = keys
        self._queues = queues
        self._kind_sets = kind_sets

    def marks(self, groups: Groups) -> list[Range]:
        """The reads of the markers."""
        return [Range(self._keys.groups + group, keys_only=True) for group in groups.marks]

    async def settled(self, kinds: tuple[str, ...]) -> Groups:
        """The groups of these kinds, after each was given one."""
        for _ in range(8 * ROUNDS):
            found = await self._groups_of(kinds)
            groups = list(dict.fromkeys(one.group for one in found.values() if one.group))
            marks = dict(zip(groups, await self._kv.get([self._keys.groups + group for group in groups]), strict=True))
            moves = _moves(kinds, found, marks)
            if not moves and len(groups) > _MANY:
                moves = _merges(kinds, found, await self._others())
            if moves:
                await self._move(moves, found, marks)
            # read again: a group that changed before its marker was read shows here, a later change in `hold`
            elif await self._followed(kinds, found) and await self._groups_of(kinds) == found:
                names = {self._keys.kind(kind): kind for kind in kinds}
                mods = {group: 0 if entry is None else entry.mod for group, entry in marks.items()}
                return Groups(kinds, names, mods)
        raise StoreUnavailableError(self._keys.root[:-1], "too many nodes register kinds at once")

    async def _others(self) -> set[frozenset[str]]:
        """The different sets of kinds that live nodes have."""
        (rows,) = await self._kv.read([Range(self._keys.node, prefix_end(self._keys.node))])
        infos = await self._kind_sets.whole([node_of(entry.value) for _, entry in rows.items])
        return {frozenset(info.kinds) for info in infos}

    async def _groups_of(self, kinds: Sequence[str]) -> dict[str, _Kind]:
        entries = await self._kv.get([self._keys.group_of(kind) for kind in kinds])
        return {
            kind: _Kind("", 0) if entry is None else _Kind(entry.value.decode(errors="replace"), entry.mod)
            for kind, entry in zip(kinds, entries, strict=True)
        }

    async def _move(
        self,
        moves: Mapping[tuple[str, str], Sequence[str]],
        found: Mapping[str, _Kind],
        marks: Mapping[str, Entry | None],
    ) -> None:
        """Give kinds their groups, some in each step; what meets another change is left for the next look."""
        keys = self._keys
        targets = [target for _, target in moves if target not in marks]
        entries = {
            **marks,
            **dict(zip(targets, await self._kv.get([keys.groups + one for one in targets]), strict=True)),
        }
        known = {group: (size_of(entry), 0 if entry is None else entry.mod) for group, entry in entries.items()}
        for (source, target), kinds in moves.items():
            for at in range(0, len(kinds), _MAX_MOVED):
                part = kinds[at : at + _MAX_MOVED]
                counts = {target: known[target][0] + len(part)}
                if source:
                    counts[source] = known[source][0] - len(part)
                compares = [Compare(keys.group_of(kind), mod=found[kind].mod) for kind in part]
                compares += [Compare(keys.groups + group, mod=known[group][1]) for group in counts]
                ops: list[Op] = [Put(keys.group_of(kind), target.encode()) for kind in part]
                ops += [
                    Put(keys.groups + group, encode(count)) if count > 0 else Delete(keys.groups + group)
                    for group, count in counts.items()
                ]
                applied = await self._kv.txn([Step(compares, ops)])
                if applied.steps[0] is None:
                    return
                known |= {group: (count, applied.revision if count else 0) for group, count in counts.items()}

    async def _followed(self, kinds: Sequence[str], found: Mapping[str, _Kind]) -> bool:
        """Let the heads of these kinds follow their groups; False when one was changed meanwhile."""
        keys = self._keys
        of = {keys.kind(kind): one for kind, one in found.items()}
        late = {
            head: (one.group, one.mod)
            for head in await self._heads(kinds)
            if (one := of.get(keys.ready_parts(head.queue)[0])) is not None and one.group != head.group
        }
        return not late or await self._queues.regroup(late)

    async def _heads(self, kinds: Sequence[str]) -> list[Head]:
        """The heads of the ready queues of these kinds, and maybe of others."""
        keys, heads = self._keys, list[Head]()
        if len(kinds) <= _MAX_MOVED:
            prefixes = [keys.ready_heads(kind) for kind in kinds]
            for found in await self._kv.read([Range(prefix, prefix_end(prefix)) for prefix in prefixes]):
                heads += self._queues.heads(found)
            return heads
        start = keys.head(f"{keys.root}ready/") + "/"
        end = prefix_end(start)
        while True:
            (found,) = await self._kv.read([Range(start, end, _PAGE)])
            heads += self._queues.heads(found)
            if found.count <= len(found.items):
                return heads
            start = found.items[-1][0] + "!"


def size_of(entry: Entry | None) -> int:
    """How many kinds a group has, by its marker."""
    return 0 if entry is None else count_of(entry.value)


def _moves(
    kinds: Sequence[str], found: Mapping[str, _Kind], marks: Mapping[str, Entry | None]
) -> dict[tuple[str, str], list[str]]:
    """Which kinds go from which group to which: those without one, and those that share one with other nodes' kinds."""
    name = hashlib.sha256("\0".join(sorted(kinds)).encode()).hexdigest()[:12]
    moves: dict[tuple[str, str], list[str]] = {}
    for group, its in _by_group(kinds, found).items():
        if not group:
            moves["", name] = its
        elif len(its) < size_of(marks[group]):
            # every node with these kinds comes to the same name, so they do not work against each other
            moves[group, hashlib.sha256(f"{name} {group}".encode()).hexdigest()[:12]] = its
    return moves


def _merges(
    kinds: Sequence[str], found: Mapping[str, _Kind], others: Iterable[frozenset[str]]
) -> dict[tuple[str, str], list[str]]:
    """Which groups become one, as no other node has the kinds of one and not those of the other."""
    own, sets = _by_group(kinds, found), list(others)
    classes: dict[tuple[bool, ...], list[str]] = {}
    for group, its in own.items():
        classes.setdefault(tuple(its[0] in one for one in sets), []).append(group)
    moves: dict[tuple[str, str], list[str]] = {}
    for alike in classes.values():
        target = max(alike, key=lambda group: (len(own[group]), group))
        moves |= {(group, target): own[group] for group in alike if group != target}
    return moves


def _by_group(kinds: Sequence[str], found: Mapping[str, _Kind]) -> dict[str, list[str]]:
    own: dict[str, list[str]] = {}
    for kind in kinds:
        own.setdefault(found[kind].group, []).append(kind)
    return own
