"""Needs that are over: the instances that have them go on, or are cancelled.

One transaction deletes the markers of needs, lets their dependant enter its queue, and deletes the edges and the key
below `settle/`. It compares the record of the dependant as read with the last markers, since an instance that is closed
and waits gets no further needs. If another marker is left, one transaction compares that marker, and deletes these.

In all other cases, there are three steps. The first one deletes the markers of the needs. The second one looks at each
dependant, and lets it enter its queue if no marker is left. The last one deletes the edges and the key. A wait begins
with the compare of a marker that is left, so it begins before that marker goes, and the second step sees it.

No counter is kept: many ends at once would have conflicts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec
from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Op, Range, Transaction
from peerjob.store.kv.format.keys import Keys, below, prefix_end
from peerjob.store.kv.format.rows import Row, number_of
from peerjob.store.kv.format.thread_rows import StoredEdge, edge_of, wait_of
from peerjob.store.kv.queue.cancel import cancel_instances
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import need_failed

from .entering import EndOfWait, write_ends

logger = logging.getLogger("peerjob.store")

SETTLING = "settle"
"""The request in the records of the instances that the settling cancels."""
_MAX_OPS = 100
"""Most deletes of one transaction."""
_MAX_DELETES = 60
"""Most deletes of a transaction that ends a wait: it has other operations, too."""
_MAX_WAITS = 50
"""One read finds the records of at most so many dependants together with their needs."""
_MAX_WITNESSES = 10_000


class _Need(msgspec.Struct, frozen=True):
    """A need that is over."""

    child: str
    state: State | None
    """The final state of the child; None if it is gone."""
    dependant: str
    edge: StoredEdge

    @property
    def failed(self) -> bool:
        return self.edge.must_complete and self.state is not State.COMPLETED


class _End(msgspec.Struct, frozen=True):
    """The end of a child that others need."""

    needs: Sequence[_Need]
    removal: Sequence[Op]
    """What removes the edges; and at last, if no other edge is left, the key below `settle/`."""


class EndedNeeds:
    """Settles needs that are over."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._witnesses: dict[str, Compare] = {}
        """Prefix of the needs of an instance → the compare of one that was left. etcd would count a whole range."""

    async def follow(self, settles: Sequence[str], limit: int, todo: deque[str]) -> int:
        """Settle the needs of children that are over; returns how many. `todo` gets the ends that have more."""
        context, keys = self._context, self._context.keys
        ids = [parts_of_key(keys, key)[0] for key in settles]
        entries, edges = await self._edges(settles, ids, limit + 1)
        ends: list[_End] = []
        count = 0
        for key, id, entry, of_child in zip(settles, ids, entries, edges, strict=True):
            if entry is None:
                continue  # another node has settled it
            cut, first = len(keys.edges(id)), of_child[: limit - count]
            needs = [_Need(id, _state_of(entry), name[cut:], edge) for name, edge in first]
            count += len(first)
            if len(first) < len(of_child):
                todo.append(key)
            removed = [name for name, _ in first] + [key] * (len(first) == len(of_child))
            if removed:
                ends.append(_End(needs, [Delete(name) for name in removed]))
        left = await self._pass_over(ends)
        if left:
            left = await self._pass_over(await self._end_waits(left))
        if left:
            await self._follow([need for end in left for need in end.needs], todo)
            await context.writer.plain([op for end in left for op in end.removal])
        return max(1, count)

    async def _edges(
        self, settles: Sequence[str], ids: Sequence[str], limit: int
    ) -> tuple[list[Entry | None], list[list[tuple[str, StoredEdge]]]]:
        """The keys below `settle/` of children, and the edges of each, with their keys.

        An edge that cannot be read stands for a need of the present wait.
        """
        context, keys = self._context, self._context.keys
        answers = await context.kv.read([*map(Range, settles), *(below(keys.edges(id), limit) for id in ids)])
        entries = [answer.items[0][1] if answer.items else None for answer in answers[: len(settles)]]
        del answers[: len(settles)]
        read = [[(key, edge_of(entry.value)) for key, entry in answer.items] for answer in answers]
        damaged = {key: key.rpartition("/")[2] for of_child in read for key, edge in of_child if edge is None}
        rows = await context.rows(list(damaged.values())) if damaged else {}
        known: dict[str, StoredEdge] = {}
        for key, dependant in damaged.items():
            logger.error("%s: this need of a child cannot be read; the end of the child counts for it", key)
            fence = rows[dependant][1].fence if dependant in rows else 0
            # an instance that has not run needs siblings, and may not run after one that failed
            known[key] = StoredEdge(fence, must_complete=not fence)
        return entries, [[(key, edge or known[key]) for key, edge in of_child] for of_child in read]

    async def _pass_over(self, ends: Sequence[_End]) -> list[_End]:
        """Settle ends whose dependants are known to need others, in a transaction for each part; returns what is left.

        No part deletes the marker that another one compares: an end with that marker is left.
        """
        parts = list(_parts_of(ends))
        passed = await asyncio.gather(*map(self._pass_over_part, parts), return_exceptions=True)
        for error in passed:
            if isinstance(error, BaseException):
                raise error
        return [end for part, is_done in zip(parts, passed, strict=True) if not is_done for end in part]

    async def _pass_over_part(self, ends: Sequence[_End]) -> bool:
        """Settle ends in one transaction, if each instance that needs one of them is known to need another one."""
        needs = [need for end in ends for need in end.needs]
        markers = dict.fromkeys(self._marker(need) for need in needs)
        ops = [*map(Delete, markers), *(op for end in ends for op in end.removal)]
        compares: dict[str, Compare] = {}
        for prefix in (self._prefix(need) for need in needs):
            witness = self._witnesses.get(prefix)
            if witness is None or witness.key in markers:
                return False
            compares[prefix] = witness
        if len(ops) > _MAX_OPS or any(need.failed for need in needs):
            return False
        applied = await self._context.kv.txn([Transaction(list(compares.values()), ops)])
        return applied.answers[0] is not None

    async def _end_waits(self, ends: Sequence[_End]) -> list[_End]:
        """Let each instance enter its queue whose last needs are among those of the ends; returns what is left.

        One transaction of an instance also removes its needs. Of other instances, a need that is left is remembered.
        """
        removals = {end.needs[0].child: end.removal for end in ends if len(end.needs) == 1}
        waits: dict[tuple[str, int], list[_Need]] = {}
        for need in (need for end in ends for need in end.needs):
            waits.setdefault((need.dependant, need.edge.fence), []).append(need)
        done: set[str] = set()
        for at in range(0, len(waits), _MAX_WAITS):
            part = dict(islice(waits.items(), at, at + _MAX_WAITS))
            last: dict[str, EndOfWait] = {}
            for (id, fence), (revision, row) in (await self._waiting(part)).items():
                needs = part[id, fence]
                edges = (op for need in needs for op in removals.get(need.child, [Delete(self._edge(need))]))
                ops = [*(Delete(self._marker(need)) for need in needs), *edges]
                if len(ops) <= _MAX_DELETES:
                    last[id] = EndOfWait(revision, row, row, ops)
            for id in await write_ends(self._context, last) if last else ():
                done |= {self._edge(need) for need in part[id, last[id].row.fence]}
        left: list[_End] = []
        for end in ends:
            needs = [need for need in end.needs if self._edge(need) not in done]
            if needs or len(end.needs) != 1:
                left.append(_End(needs, [op for op in end.removal if op.key not in done]))
        return left

    async def _waiting(
        self, waits: Mapping[tuple[str, int], Sequence[_Need]]
    ) -> dict[tuple[str, int], tuple[int, Row]]:
        """The records, with their revisions, of the instances that wait under these fences for these needs alone."""
        context, keys = self._context, self._context.keys
        # the records and the needs are of one moment: an instance that is open can get further needs
        answers = await context.kv.read(
            [
                *(Range(keys.state + id) for id, _ in waits),
                *(_last_needs(keys.needs(id, fence), len(needs) + 1) for (id, fence), needs in waits.items()),
            ]
        )
        waiting: dict[tuple[str, int], tuple[int, Row]] = {}
        for ((id, fence), needs), record, left in zip(waits.items(), answers, answers[len(waits) :], strict=False):
            over = {self._marker(need) for need in needs}
            others = [Compare(key, mod=entry.mod) for key, entry in left.items if key not in over]
            self._witnesses.pop(keys.needs(id, fence), None)
            if others:
                self._remember({keys.needs(id, fence): others[0]})
            elif record.items and not any(need.failed for need in needs):
                entry = record.items[0][1]
                row = await context.row_of(id, entry)
                thread = None if row is None else wait_of(row)
                if row is not None and thread is not None and thread.needs and not thread.open and row.fence == fence:
                    waiting[id, fence] = entry.mod, row
        return waiting

    async def follow_failed(self, ends: Mapping[str, Entry], todo: deque[str]) -> int:
        """Settle needs of children that had ended before; returns how many."""
        needs: list[_Need] = []
        for key, entry in ends.items():
            dependant, what = parts_of_key(self._context.keys, key)
            _, fence, child = what.split("/")
            needs.append(_Need(child, _state_of(entry), dependant, StoredEdge(int(fence), must_complete=True)))
        await self._follow(needs, todo)
        await self._context.writer.plain([Delete(key) for key in ends])
        return len(needs)

    async def _follow(self, needs: Sequence[_Need], todo: deque[str]) -> None:
        failed = [need for need in needs if need.failed]
        over = [need for need in needs if not need.failed]
        # the marker of a failed need stays until its dependant is cancelled, so that the dependant does not go on
        await self._context.writer.plain([Delete(self._marker(need)) for need in over])
        if failed:
            await self._cancel(failed, todo)
            await self._context.writer.plain([Delete(self._marker(need)) for need in failed])
        fences = await self.go_on({(need.dependant, need.edge.fence) for need in over})
        if fences:
            # edges of earlier waits, or damaged ones: a child that is over is no need of the present wait, either
            edges = ((need, fences.get(need.dependant)) for need in over)
            again = [replace(need, edge=replace(need.edge, fence=fence)) for need, fence in edges if fence is not None]
            await self._context.writer.plain([Delete(self._marker(need)) for need in again])
            await self.go_on({(need.dependant, need.edge.fence) for need in again})

    def _prefix(self, need: _Need) -> str:
        return self._context.keys.needs(need.dependant, need.edge.fence)

    def _marker(self, need: _Need) -> str:
        return self._prefix(need) + need.child

    def _edge(self, need: _Need) -> str:
        return self._context.keys.edges(need.child) + need.dependant

    async def _cancel(self, failed: Sequence[_Need], todo: deque[str]) -> None:
        """Cancel the instances that wait for a child which has failed."""
        first = {need.dependant: need for need in reversed(failed)}

        def choose(id: str, row: Row) -> tuple[Row, str] | None:
            need, thread = first[id], wait_of(row)
            # before its first run, an instance has one wait, so an edge with another fence is damaged
            waits = thread is not None and thread.needs and row.fence in (0, need.edge.fence)
            return (row, need_failed(need.child, need.state)) if waits else None

        settles: list[str] = []
        await cancel_instances(self._context, list(first), choose, request=SETTLING, settles=settles)
        todo.extend(settles)

    async def go_on(self, waiting: set[tuple[str, int]]) -> dict[str, int]:
        """Let each instance enter its queue that waits under a fence, if no need is left.

        Returns the fences of those that wait under another one.
        """
        context, keys = self._context, self._context.keys
        pending, others = sorted(waiting), dict[str, int]()
        for _ in range(8 * ROUNDS):
            pending = await self._without_witness(pending)
            if not pending:
                return others
            # the records come before the needs: an instance that is open, or does not wait yet, can get further needs
            rows = await context.rows([id for id, _ in pending])
            left = await self._left([keys.needs(id, fence) for id, fence in pending])
            ends: dict[str, EndOfWait] = {}
            for id, fence in pending:
                revision, row = rows.get(id, (0, None))
                thread = None if row is None else wait_of(row)
                if row is None or thread is None or not thread.needs or keys.needs(id, fence) in left:
                    continue
                if row.fence != fence:
                    others[id] = row.fence
                elif not thread.open:
                    ends[id] = EndOfWait(revision, row, row)
            done: set[str] = await write_ends(context, ends) if ends else set()
            pending = [(id, fence) for id, fence in pending if id in ends and id not in done]
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def _without_witness(self, waiting: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Those instances, under their fences, of which no need is known to be left."""
        prefixes = [self._context.keys.needs(id, fence) for id, fence in waiting]
        old = {prefix: witness for prefix in prefixes if (witness := self._witnesses.pop(prefix, None)) is not None}
        entries = await self._context.kv.get([witness.key for witness in old.values()]) if old else []
        pairs = zip(old.items(), entries, strict=True)
        left = {prefix: Compare(witness.key, mod=entry.mod) for (prefix, witness), entry in pairs if entry is not None}
        self._witnesses |= left
        return [waiter for waiter, prefix in zip(waiting, prefixes, strict=True) if prefix not in left]

    async def _left(self, prefixes: Sequence[str]) -> set[str]:
        """Those of these prefixes of needs that still have one, which is then their witness."""
        answers = await self._context.kv.read([_last_needs(prefix, 1) for prefix in prefixes])
        left = {
            prefix: Compare(key, mod=entry.mod)
            for prefix, answer in zip(prefixes, answers, strict=True)
            for key, entry in answer.items
        }
        self._remember(left)
        return set(left)

    def _remember(self, witnesses: Mapping[str, Compare]) -> None:
        if len(self._witnesses) >= _MAX_WITNESSES:
            self._witnesses.clear()
        self._witnesses |= witnesses


def parts_of_key(keys: Keys, key: str) -> tuple[str, str]:
    """The instance of a key below `settle/`, and what is to be settled about it."""
    id, _, what = key[len(keys.settling) :].partition("/")
    return id, what


def _last_needs(prefix: str, limit: int) -> Range:
    return Range(prefix, prefix_end(prefix), limit, keys_only=True, reverse=True)


def _parts_of(ends: Iterable[_End]) -> Iterator[list[_End]]:
    """Ends in parts, each for one transaction."""
    part: list[_End] = []
    size = 0
    for end in ends:
        more = len(end.needs) + len(end.removal)
        if part and size + more > _MAX_OPS:
            yield part
            part, size = [], 0
        part.append(end)
        size += more
    if part:
        yield part


def _state_of(entry: Entry) -> State | None:
    number = number_of(entry.value)
    return State(number) if number > 0 else None
