"""Groups of kinds: an index of ready queues for each set of kinds that nodes register together.

A node with many kinds cannot read the head of each queue in each claim. So each of its kinds has a group. The ready
queues of a group are entries of an index for each priority, sorted by their heads (`queues`). A claim reads the first
entries of the indexes of its groups.

The groups of a node have only kinds of that node. A node that finds other kinds in a group moves its own kinds to
another group. So the number of groups is the number of different sets of kinds. Each group has a marker,
`groups/<group>`, which is written when a kind is added or removed. A claim also reads the markers. If one has changed,
the claim reads its groups again.

A transaction changes the group of a kind; further transactions then move the heads of its queues. All transactions can
be repeated. Each process completes them before it uses the groups, so no process depends on another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.kv.format.base import Compare, Delete, Entry, Found, Op, Put, Range, Transaction, mod_of
from peerjob.store.kv.format.keys import below, prefix_end
from peerjob.store.kv.format.rows import count_of, encode, group_of, node_of
from peerjob.store.kv.index.scan import Head
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.writer import ROUNDS

_MAX_MOVED = 100
"""One transaction moves at most this number of kinds to another group, so that a server accepts the transaction."""
_MANY_GROUPS = 8
"""If a node has more groups than this, groups whose kinds always occur together on nodes are merged."""
_PAGE = 1_000


class Groups(msgspec.Struct, frozen=True):
    """The groups of the kinds of one node, as read."""

    kinds: tuple[str, ...]
    names: Mapping[str, str]
    """Kind, escaped as in keys → kind without escapes."""
    marks: Mapping[str, int]
    """Group → revision of the group's marker. A claim that finds another revision reads the groups again."""

    def hold(self, marks: Iterable[Found]) -> bool:
        """Whether the markers that were read have the revisions in `marks`."""
        return [mark.items[0][1].mod if mark.items else 0 for mark in marks] == [*self.marks.values()]


class _Kind(msgspec.Struct, frozen=True):
    group: str
    mod: int


class Grouping:
    """Puts kinds into groups."""

    def __init__(self, context: KVContext) -> None:
        self._kv = context.kv
        self._keys = context.keys
        self._queues = context.queues
        self._kind_sets = context.kind_sets

    def marks(self, groups: Groups) -> list[Range]:
        """The reads of the markers."""
        return [Range(self._keys.groups + group, keys_only=True) for group in groups.marks]

    async def stable(self, kinds: tuple[str, ...]) -> Groups:
        """The groups of these kinds. A kind without a group gets one."""
        for _ in range(8 * ROUNDS):
            stored = await self._groups_of(kinds)
            groups = list(dict.fromkeys(kind.group for kind in stored.values() if kind.group))
            marks = dict(zip(groups, await self._kv.get([self._keys.groups + group for group in groups]), strict=True))
            moves = _moves(kinds, stored, marks)
            if not moves and len(groups) > _MANY_GROUPS:
                moves = _merges(kinds, stored, await self._others())
            if moves:
                await self._move(moves, stored, marks)
            # the second read finds groups that changed before the markers were read, and `hold` finds groups that
            # change later
            elif await self._followed(kinds, stored) and await self._groups_of(kinds) == stored:
                names = {self._keys.kind(kind): kind for kind in kinds}
                mods = {group: mod_of(entry) for group, entry in marks.items()}
                return Groups(kinds, names, mods)
        raise StoreUnavailableError(self._keys.root[:-1], "too many nodes register kinds at once")

    async def _others(self) -> set[frozenset[str]]:
        """The sets of kinds that the nodes have; nodes with the same kinds have one set."""
        (rows,) = await self._kv.read([below(self._keys.node)])
        infos = await self._kind_sets.whole([node_of(entry.value) for _, entry in rows.items])
        return {frozenset(info.kinds) for info in infos}

    async def _groups_of(self, kinds: Sequence[str]) -> dict[str, _Kind]:
        entries = await self._kv.get([self._keys.group_of(kind) for kind in kinds])
        return {
            kind: _Kind("", 0) if entry is None else _Kind(group_of(entry.value), entry.mod)
            for kind, entry in zip(kinds, entries, strict=True)
        }

    async def _move(
        self,
        moves: Mapping[tuple[str, str], Sequence[str]],
        stored: Mapping[str, _Kind],
        marks: Mapping[str, Entry | None],
    ) -> None:
        """Move kinds to groups, some in each transaction; after a conflict, the caller plans the rest again."""
        keys = self._keys
        targets = [target for _, target in moves if target not in marks]
        entries = {
            **marks,
            **dict(zip(targets, await self._kv.get([keys.groups + target for target in targets]), strict=True)),
        }
        known = {group: (size_of(entry), mod_of(entry)) for group, entry in entries.items()}
        for (source, target), kinds in moves.items():
            for at in range(0, len(kinds), _MAX_MOVED):
                part = kinds[at : at + _MAX_MOVED]
                counts = {target: known[target][0] + len(part)}
                if source:
                    counts[source] = known[source][0] - len(part)
                compares = [Compare(keys.group_of(kind), mod=stored[kind].mod) for kind in part]
                compares += [Compare(keys.groups + group, mod=known[group][1]) for group in counts]
                ops: list[Op] = [Put(keys.group_of(kind), target.encode()) for kind in part]
                ops += [
                    Put(keys.groups + group, encode(count)) if count > 0 else Delete(keys.groups + group)
                    for group, count in counts.items()
                ]
                applied = await self._kv.txn([Transaction(compares, ops)])
                if applied.answers[0] is None:
                    return
                known |= {group: (count, applied.revision if count else 0) for group, count in counts.items()}

    async def _followed(self, kinds: Sequence[str], stored: Mapping[str, _Kind]) -> bool:
        """Move the queue heads of the kinds to the indexes of their groups; False after a conflict."""
        keys = self._keys
        group_of = {keys.kind(kind): group for kind, group in stored.items()}
        late = {
            head: (group.group, group.mod)
            for head in await self._heads(kinds)
            if (group := group_of.get(keys.ready_parts(head.queue)[0])) is not None and group.group != head.group
        }
        return not late or await self._queues.regroup(late)

    async def _heads(self, kinds: Sequence[str]) -> list[Head]:
        """The heads of the ready queues of the kinds; if the kinds are many, the heads of all kinds."""
        keys, heads = self._keys, list[Head]()
        if len(kinds) <= _MAX_MOVED:
            for stored in await self._kv.read([below(keys.ready_heads(kind)) for kind in kinds]):
                heads += self._queues.heads(stored)
            return heads
        start = keys.head(f"{keys.root}ready/") + "/"
        end = prefix_end(start)
        while True:
            (stored,) = await self._kv.read([Range(start, end, _PAGE)])
            heads += self._queues.heads(stored)
            if not stored.more:
                return heads
            start = stored.next_key


def size_of(entry: Entry | None) -> int:
    """The number of kinds of a group, from its marker."""
    return 0 if entry is None else count_of(entry.value)


def _moves(
    kinds: Sequence[str], stored: Mapping[str, _Kind], marks: Mapping[str, Entry | None]
) -> dict[tuple[str, str], list[str]]:
    """(Old group, new group) → kinds to move: kinds without a group, or in a group with kinds of other nodes."""
    name = hashlib.sha256("\0".join(sorted(kinds)).encode()).hexdigest()[:12]
    moves: dict[tuple[str, str], list[str]] = {}
    for group, members in _by_group(kinds, stored).items():
        if not group:
            moves["", name] = members
        elif len(members) < size_of(marks[group]):
            # all nodes with the same kinds compute the same name for the new group, so those nodes do not move kinds
            # apart
            moves[group, hashlib.sha256(f"{name} {group}".encode()).hexdigest()[:12]] = members
    return moves


def _merges(
    kinds: Sequence[str], stored: Mapping[str, _Kind], others: Iterable[frozenset[str]]
) -> dict[tuple[str, str], list[str]]:
    """(Old group, new group) → kinds to move: groups are merged if each node has all of their kinds or none."""
    own, sets = _by_group(kinds, stored), list(others)
    classes: dict[tuple[bool, ...], list[str]] = {}
    for group, members in own.items():
        classes.setdefault(tuple(members[0] in kinds_of_node for kinds_of_node in sets), []).append(group)
    moves: dict[tuple[str, str], list[str]] = {}
    for alike in classes.values():
        target = max(alike, key=lambda group: (len(own[group]), group))
        moves |= {(group, target): own[group] for group in alike if group != target}
    return moves


def _by_group(kinds: Sequence[str], stored: Mapping[str, _Kind]) -> dict[str, list[str]]:
    own: dict[str, list[str]] = {}
    for kind in kinds:
        own.setdefault(stored[kind].group, []).append(kind)
    return own
