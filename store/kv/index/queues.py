"""Queues in key order, whose first entries can be read without the cost of the rest.

etcd counts every key in a range, and every key deleted there since the last compaction, even beyond the limit. So each
queue has a *head*: a key whose value is a lower bound of the positions in the queue. A transaction that adds an entry
compares the head with its position; if the head is above, the head is lowered first. A read that finds no entries after
the head moves the head forward, and compares that this part is still empty.

`scan` reads a queue from its head on. A position is `<time>/<id>`, or `<id>` in an index.

The ready queues of a kind with a group (`kind_groups`) are entries of an index, sorted by their heads. The index is a
queue too. A transaction that changes the head of a ready queue also changes its entry in the index. The value of a head
is a position, and after a blank the group. A blank sorts before all characters of a position, so the compare still
works.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from peerjob.model.limits import MAX_KIND
from peerjob.store.kv.format.base import (
    Compare,
    Delete,
    Entry,
    Found,
    KeyValue,
    Op,
    Put,
    Range,
    Transaction,
    apply_all,
    mod_of,
)
from peerjob.store.kv.format.keys import LATEST_US, Keys, below, prefix_end
from peerjob.store.kv.format.rows import group_of
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable

from .scan import AFTER_ALL, Head, Scan, WindowWidth

_FIRST = "0"
"""A text that sorts before every position in a queue."""
_ATTEMPTS = 8
_MAX_KNOWN = 50_000
"""A store remembers the heads and the window widths of at most this number of queues."""
_MAX_REST = 36 + 1 + 12 * MAX_KIND
"""Most characters after the time in a position: an id, a slash and a kind, whose characters are up to 12 if escaped."""
_START = re.compile(f"[0-9]{{1,18}}(/[!-~]{{0,{_MAX_REST}}})?|0[0-9a-f-]{{1,35}}")
"""The text of a head: a time, or a time with the rest of a position, or an id; the last part of each can be cut."""
_NO_ID = "00000000-0000-0000"
"""An index entry contains this id if the head of the queue is a time without an id."""

Get = Callable[[Sequence[str]], Awaitable[list[Entry | None]]]


class Opening(msgspec.Struct, frozen=True):
    """The compares and writes of a transaction that opens a queue."""

    compares: list[Compare]
    ops: list[Op]


class Queues:
    """The queues as one store knows them: lower bounds of their heads, and widths of windows."""

    def __init__(self, kv: KeyValue, keys: Keys, unreadable: Unreadable) -> None:
        self._kv = kv
        self._keys = keys
        self._unreadable = unreadable
        self._known: dict[str, str] = {}
        self._window_widths: dict[str, WindowWidth] = {}
        self._reserved = keys.head(f"{keys.due}@/")

    # -- adding ---------------------------------------------------------------------------------------------------

    def guard(self, queue: str, position: str) -> Compare:
        """The compare that a transaction needs to add entries at this position or later."""
        return Compare(self._keys.head(queue), below=position)

    def forget(self, queues: Iterable[str]) -> None:
        """Forget the heads of queues after a conflict, so that the next write to the queues reads the heads."""
        for queue in queues:
            self._known.pop(queue, None)

    async def open(
        self, positions: Mapping[str, str], *, alone: Collection[str] = (), get: Get | None = None
    ) -> dict[str, Opening]:
        """Lower the head of each of these queues below its position.

        A queue in `alone` gets one entry only. If it has no head yet, the transaction that adds the entry can also
        write the head: the answer has the parts of that transaction. `get` reads the keys of the heads, perhaps with
        others that the caller needs.
        """
        openings: dict[str, Opening] = {}
        for _ in range(_ATTEMPTS):
            unknown = [queue for queue in self._unopened(positions) if queue not in openings]
            if not unknown:
                break
            transactions: list[Transaction] = []
            lowered: list[Head] = []
            indexes: dict[str, str] = {}
            heads = await self._writable_heads(unknown, get or self._kv.get)
            for queue, (head, guards) in heads.items():
                position = positions[queue]
                if head.mod and "" < head.start < position:
                    self._remember(queue, head.start)
                    continue
                unreadable = head.mod and not head.start
                new = replace(head, start=_FIRST if unreadable else position[:-1])
                opening = self._begun(head, new, guards, indexes)
                if head.mod or queue not in alone:
                    transactions.append(Transaction(opening.compares, opening.ops))
                    lowered.append(new)
                else:
                    openings[queue] = opening
            if indexes:
                await self.open(indexes)
            await self._apply(transactions, lowered, indexes)
        # heads that still move are no error: each transaction that adds an entry compares the head, and a conflict
        # causes another call of `open`
        return openings

    def are_open(self, positions: Mapping[str, str]) -> bool:
        """Whether the head of each queue is known to be below the position that is given for the queue."""
        return not self._unopened(positions)

    def _unopened(self, positions: Mapping[str, str]) -> list[str]:
        known = self._known
        return [queue for queue, position in positions.items() if not known.get(queue, position) < position]

    def opened(self, positions: Iterable[tuple[str, str]]) -> None:
        """Remember that a transaction opened queues, with entries at these positions."""
        for queue, position in positions:
            self._remember(queue, position[:-1])

    def reread(self, compares: Iterable[Compare]) -> None:
        """Forget the heads that a transaction with a conflict compared, so that the next write reads them again."""
        self.forget(self._keys.queue_of(compare.key) for compare in compares if compare.below)

    async def _writable_heads(self, queues: Sequence[str], get: Get) -> dict[str, tuple[Head, list[Compare]]]:
        """The heads of queues, each with the compares that the next write of the head needs."""
        keys = self._keys
        kinds = {queue: keys.group + keys.ready_parts(queue)[0] for queue in queues if keys.is_ready(queue)}
        grouped = list(dict.fromkeys(kinds.values()))
        entries = await get([*map(keys.head, queues), *grouped])
        groups = dict(zip(grouped, entries[len(queues) :], strict=True))
        heads: dict[str, tuple[Head, list[Compare]]] = {}
        for queue, entry in zip(queues, entries, strict=False):
            if entry is not None:
                head = self.head(queue, entry)
                heads[queue] = head, [Compare(keys.head(queue), mod=head.mod)]
                continue
            guards, group = [Compare(keys.head(queue))], ""
            if queue in kinds:
                group_entry = groups[kinds[queue]]
                guards.append(Compare(kinds[queue], mod=mod_of(group_entry)))
                group = "" if group_entry is None else group_of(group_entry.value)
            heads[queue] = Head(queue, "", 0, group), guards
        return heads

    def _begun(self, old: Head, new: Head, guards: Sequence[Compare], indexes: dict[str, str]) -> Opening:
        """The compares and writes of a new head and of its index entry; `indexes` gets the position of the entry."""
        compares, ops = [*guards], list[Op]([Put(self._keys.head(new.queue), new.value)])
        if new.group:
            index, position = self._entry(new)
            compares.append(self.guard(index, position))
            indexes[index] = min(position, indexes.get(index, position))
        ops += self._moved(old, new)
        return Opening(compares, ops)

    async def _apply(
        self, transactions: Sequence[Transaction], heads: Sequence[Head], indexes: Iterable[str]
    ) -> list[bool]:
        """Write heads; the answer says for each head whether the transaction was applied."""
        done = [answer is not None for answer in await apply_all(self._kv, transactions)]
        for head, is_done in zip(heads, done, strict=True):
            if is_done:
                self._remember(head.queue, head.start)
        if not all(done):
            self.forget(indexes)
        return done

    async def regroup(self, heads: Mapping[Head, tuple[str, int]]) -> bool:
        """Move heads to the index of another group. Each is given with its new group and the revision of `group/`."""
        keys = self._keys
        transactions: list[Transaction] = []
        indexes: dict[str, str] = {}
        moved: list[Head] = []
        for head, (group, mod) in heads.items():
            new = replace(head, group=group)
            kind = keys.group + keys.ready_parts(head.queue)[0]
            guards = [Compare(keys.head(head.queue), mod=head.mod), Compare(kind, mod=mod)]
            opening = self._begun(head, new, guards, indexes)
            transactions.append(Transaction(opening.compares, opening.ops))
            moved.append(new)
        await self.open(indexes)
        return all(await self._apply(transactions, moved, indexes))

    def _entry(self, head: Head) -> tuple[str, str]:
        """The index of a ready queue, and the position of the queue's entry in the index."""
        kind, side, priority = self._keys.ready_parts(head.queue)
        time, _, id = head.start.partition("/")
        return self._keys.order(head.group, priority), f"{time:0<18}/{id or _NO_ID}/{kind}/{side}"

    def _moved(self, old: Head, new: Head | None) -> list[Op]:
        """The change of the index after a head changed from `old` to `new`; with None, the head is deleted."""
        ops: list[Op] = []
        if old.mod and old.group:
            ops.append(Delete("".join(self._entry(old))))
        if new is not None and new.group:
            entry = "".join(self._entry(new))
            ops = [Put(entry, b"")] if ops and ops[0].key == entry else [*ops, Put(entry, b"")]
        return ops

    # -- reading --------------------------------------------------------------------------------------------------

    def delayed_heads(self) -> Range:
        """The read of the heads of all delayed queues."""
        return below(self._keys.head(self._keys.due) + "/")

    def heads(self, answer: Found) -> list[Head]:
        """The heads that a read found, without those that are reserved for later releases."""
        heads = [
            self.head(self._keys.queue_of(key), entry)
            for key, entry in answer.items
            if not key.startswith(self._reserved)
        ]
        for head in heads:
            self._remember(head.queue, head.start)
        return heads

    def head(self, queue: str, entry: Entry) -> Head:
        """Decode a head. An unreadable head counts as below all positions, so that reads begin with the first entry."""
        start, _, group = entry.value.decode(errors="replace").partition(" ")
        if _START.fullmatch(start) and (not group or group_of(group.encode())):
            return Head(queue, start, entry.mod, group)
        self._unreadable.report(self._keys.head(queue), entry.mod, "the head of a queue cannot be read", WRITTEN_ANEW)
        return Head(queue, "", entry.mod)

    def ordered(self, index: Head, position: str, mod: int) -> Head:
        """The head of the ready queue that an entry of an index names."""
        group = index.queue[:-1].rsplit("/", 2)[1]
        time, id, _ = position.split("/", 2)
        start = time if id == _NO_ID else f"{time}/{id}"
        return Head(self._keys.ordered_queue(index.queue, position), start, mod, group)

    def scan(self, head: Head, *, now_us: int, until: str = AFTER_ALL, whole: bool = False) -> Scan:
        """Begin to read a queue; with `whole` in one read, unless the queue is known to be long."""
        if len(self._window_widths) > _MAX_KNOWN:
            self._window_widths.clear()
        return Scan(head, until, now_us, self._window_widths, whole=whole)

    async def read(self, scans: Sequence[Scan], limit: int) -> None:
        """Read the next window of each scan."""
        for scan, answer in zip(scans, await self._kv.read([scan.window(limit) for scan in scans]), strict=True):
            scan.take(answer, limit)

    async def first(self, scan: Scan, limit: int) -> None:
        """Read until a scan has found `limit` entries, or all."""
        while len(scan.positions) < limit and not scan.done:
            await self.read([scan], limit - len(scan.positions))

    async def earliest(self, heads: Sequence[Head]) -> str:
        """The first position in some queues, or AFTER_ALL. Moves each head to the first entry that was found."""
        best = AFTER_ALL
        scans = [self.scan(head, now_us=LATEST_US) for head in heads]
        while unfinished := [scan for scan in scans if not (scan.done or scan.positions) and scan.at < best]:
            await self.read(unfinished, 1)
            best = min([best, *(scan.positions[0] for scan in unfinished if scan.positions)])
        await self.move_on(self.advance(scan.head, scan.positions[0]) for scan in scans if scan.positions)
        return best

    def advance(self, head: Head, position: str) -> Transaction | None:
        """The transaction that moves a head to just before a position, unless an entry was added before it."""
        start = position[:-1]
        if not head.start < start:
            return None
        key, new = self._keys.head(head.queue), replace(head, start=start)
        empty = Compare(head.queue + head.start, end=head.queue + start)
        return Transaction([Compare(key, mod=head.mod), empty], [Put(key, new.value), *self._moved(head, new)])

    def drop(self, head: Head) -> Transaction:
        """The transaction that deletes the head of an empty queue."""
        key = self._keys.head(head.queue)
        empty = Compare(head.queue + head.start, end=prefix_end(head.queue))
        return Transaction([Compare(key, mod=head.mod), empty], [Delete(key), *self._moved(head, None)])

    async def move_on(self, transactions: Iterable[Transaction | None]) -> None:
        """Apply transactions that move or delete heads. One with a conflict is dropped: later reads only cost more."""
        wanted = [transaction for transaction in transactions if transaction is not None]
        await apply_all(self._kv, wanted)
        self.forget(self._keys.queue_of(transaction.ops[0].key) for transaction in wanted)

    def _remember(self, queue: str, start: str) -> None:
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known[queue] = start
