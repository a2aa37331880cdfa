"""What follows the end of an instance: others that need it go on or are cancelled, and its children are let go.

Each end writes a key below `settle/` in its own transaction. The settling of a need has three steps. First it deletes
the markers of the needs, then it looks at each dependant, and lets it enter its queue if no marker is left. Last, it
deletes the edges and the key. So any node can repeat it after any step. A wait begins with the compare of a marker that
is left, so it begins before that marker goes, and the settling sees it.

No counter is kept: many ends at once would have conflicts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from peerjob.model.durable import MAX_SETTLED
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import check_batch
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Op, Put, Range, Transaction
from peerjob.store.kv.format.keys import below, prefix_end
from peerjob.store.kv.format.rows import Row, encode, number_of
from peerjob.store.kv.format.thread_rows import StoredEdge, edge_of, is_held, wait_of, without_hold
from peerjob.store.kv.queue.cancel import cancel_instances
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import PARENT_ENDED, need_failed

from .entering import EndOfWait, write_ends

logger = logging.getLogger("peerjob.store")

_PART = 40
"""Most children that one step lets go."""
_MAX_OPS = 100
"""Most deletes of one transaction."""
_MAX_WITNESSES = 10_000
_REQUEST = "settle"
"""The request in the records of the instances that the settling cancels."""


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


class Settler:
    """Settles ends."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._witnesses: dict[str, Compare] = {}
        """Prefix of the needs of an instance → the compare of one that was left. etcd would count a whole range."""

    async def follow_ends(self, written: Sequence[str], caller: str) -> None:
        """Settle the ends that a command has caused; if more is left, tell an incarnation."""
        if await self.settle(written, MAX_SETTLED):
            context, keys = self._context, self._context.keys
            if not caller:
                (live,) = await context.kv.read([below(keys.live, 1, keys_only=True)])
                caller = live.items[0][0][len(keys.live) :] if live.items else ""
            if caller:
                lease = await context.writer.short_lease()
                await context.writer.plain([Put(keys.hint(caller) + "settle/", b"", lease)])

    async def settle(self, written: Iterable[str], limit: int) -> bool:
        """Settle the ends that some keys name, and the ends that follow; whether the limit left some."""
        todo, left = deque(dict.fromkeys(written)), limit
        while todo and left > 0:
            what = self._what(todo[0])
            part: list[str] = []
            while todo and len(part) < min(MAX_SETTLED, left) and self._what(todo[0]) == what:
                part.append(todo.popleft())
            if what == "e":
                left -= await self._follow_needs(part, left, todo)
                continue
            entries = zip(part, await self._context.kv.get(part), strict=True)
            ends = {key: entry for key, entry in entries if entry is not None}
            if what == "f" and ends:
                left -= await self._follow_failed(ends, todo)
            elif what == "k":
                for key, entry in ends.items():
                    left -= await self._let_go(key, entry, left, todo)
        return bool(todo)

    def _what(self, key: str) -> str:
        """What a key below `settle/` is about: the needs of others (e), its children (k), a need that failed (f)."""
        return _parts(self._context, key)[1][:1]

    # -- needs ----------------------------------------------------------------------------------------------------

    async def _follow_needs(self, settles: Sequence[str], limit: int, todo: deque[str]) -> int:
        """Settle the needs of children that are over; returns how many. `todo` gets the ends that have more."""
        context, keys = self._context, self._context.keys
        ids = [_parts(context, key)[0] for key in settles]
        edges = await self._edges(ids, limit + 1)
        strict = [key for key, some in zip(settles, edges, strict=True) if any(edge.must_complete for _, edge in some)]
        states = dict(zip(strict, await context.kv.get(strict), strict=True)) if strict else {}
        ends: list[_End] = []
        count = 0
        for key, id, of_child in zip(settles, ids, edges, strict=True):
            entry = states.get(key)
            if entry is None and key in states:
                continue  # another node has settled it
            state = None if entry is None else _state_of(entry)
            cut, first = len(keys.edges(id)), of_child[: limit - count]
            needs = [_Need(id, state, name[cut:], edge) for name, edge in first]
            count += len(first)
            if len(first) < len(of_child):
                todo.append(key)
            removed = [name for name, _ in first] + [key] * (len(first) == len(of_child))
            if removed:
                ends.append(_End(needs, [Delete(name) for name in removed]))
        parts = list(_parts_of(ends))
        # no part deletes the marker that another one compares: an end with that marker is left for `_follow`
        passed = await asyncio.gather(*map(self._pass_over, parts), return_exceptions=True)
        for error in passed:
            if isinstance(error, BaseException):
                raise error
        left = [end for part, is_done in zip(parts, passed, strict=True) if not is_done for end in part]
        if left:
            await self._follow([need for end in left for need in end.needs], todo)
            await context.writer.plain([op for end in left for op in end.removal])
        return max(1, count)

    async def _edges(self, ids: Sequence[str], limit: int) -> list[list[tuple[str, StoredEdge]]]:
        """The edges of children, with their keys. One that cannot be read stands for a need of the present wait."""
        context, keys = self._context, self._context.keys
        answers = await context.kv.read([below(keys.edges(id), limit) for id in ids])
        read = [[(key, edge_of(entry.value)) for key, entry in answer.items] for answer in answers]
        damaged = {key: key.rpartition("/")[2] for of_child in read for key, edge in of_child if edge is None}
        rows = await context.rows(list(damaged.values())) if damaged else {}
        known: dict[str, StoredEdge] = {}
        for key, dependant in damaged.items():
            logger.error("%s: this need of a child cannot be read; the end of the child counts for it", key)
            fence = rows[dependant][1].fence if dependant in rows else 0
            # an instance that has not run needs siblings, and may not run after one that failed
            known[key] = StoredEdge(fence, must_complete=not fence)
        return [[(key, edge or known[key]) for key, edge in of_child] for of_child in read]

    async def _pass_over(self, ends: Sequence[_End]) -> bool:
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

    async def _follow_failed(self, ends: Mapping[str, Entry], todo: deque[str]) -> int:
        """Settle needs of children that had ended before; returns how many."""
        needs: list[_Need] = []
        for key, entry in ends.items():
            dependant, what = _parts(self._context, key)
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

    async def _cancel(self, failed: Sequence[_Need], todo: deque[str]) -> None:
        """Cancel the instances that wait for a child which has failed."""
        first = {need.dependant: need for need in reversed(failed)}

        def choose(id: str, row: Row) -> tuple[Row, str] | None:
            need, thread = first[id], wait_of(row)
            # before its first run, an instance has one wait, so an edge with another fence is damaged
            waits = thread is not None and thread.needs and row.fence in (0, need.edge.fence)
            return (row, need_failed(need.child, need.state)) if waits else None

        settles: list[str] = []
        await cancel_instances(self._context, list(first), choose, request=_REQUEST, settles=settles)
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
        answers = await self._context.kv.read([Range(prefix, prefix_end(prefix), 1, True, True) for prefix in prefixes])
        left = {
            prefix: Compare(key, mod=entry.mod)
            for prefix, answer in zip(prefixes, answers, strict=True)
            for key, entry in answer.items
        }
        if len(self._witnesses) >= _MAX_WITNESSES:
            self._witnesses.clear()
        self._witnesses |= left
        return set(left)

    # -- children -------------------------------------------------------------------------------------------------

    async def _let_go(self, key: str, entry: Entry, limit: int, todo: deque[str]) -> int:
        """Let go some children of a final instance; returns how many."""
        context, keys = self._context, self._context.keys
        prefix = keys.children(_parts(context, key)[0])
        after = entry.value.decode(errors="replace")
        start = f"{prefix}{after}!" if after else prefix
        wanted = max(1, min(limit, _PART))
        (page,) = await context.kv.read([Range(start, prefix_end(prefix), wanted, True)])
        ids = [name[len(prefix) :] for name, _ in page.items]
        await self._end_children(ids, todo)
        op: Op = Put(key, ids[-1].encode()) if page.more else Delete(key)
        # of two nodes that settle the same end, only the first moves on
        await context.writer.write([Change([Compare(key, mod=entry.mod)], [op])])
        if page.more:
            todo.append(key)
        return max(1, len(ids))

    async def _end_children(self, ids: Sequence[str], todo: deque[str]) -> None:
        """Cancel children that are not final, and let the retention of the others begin."""
        context, settles = self._context, list[str]()

        def choose(_: str, row: Row) -> tuple[Row, str] | None:
            return (without_hold(row), PARENT_ENDED) if is_held(row) else None

        await cancel_instances(context, ids, choose, request=_REQUEST, settles=settles)
        todo.extend(settles)
        pending = list(ids)
        for _ in range(ROUNDS):
            rows, now_us = await context.rows(pending), context.clock.time_us()
            held = {id: (revision, row) for id, (revision, row) in rows.items() if row.final and is_held(row)}
            if not held:
                return
            changes: list[Change] = []
            for id, (revision, row) in held.items():
                plan = TransactionPlan(context.keys, now_us)
                after = replace(without_hold(row), expires_us=context.expires_us(row, now_us))
                plan.let_go(id, after)
                plan.ops.append(Put(context.keys.state + id, encode(after)))
                changes.append(plan.change([Compare(context.keys.state + id, mod=revision)]))
            written = await context.writer.write(changes)
            context.uncache(held)
            pending = [id for id, revision in zip(held, written.revisions, strict=True) if not revision]
            if not pending:
                return
        raise StoreUnavailableError(context.url, "too many writers at once")


class SettlingCommands(KVCommands):
    """The verbs `settle` and `open_needs`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._settler = Settler(context)
        context.hints.follow_ends = self._settler.follow_ends

    @retried
    async def settle(self, limit: int = MAX_SETTLED) -> bool:
        if not self._context.kv.durable:
            return False
        settling = below(self._keys.settling, limit, keys_only=True)
        (answer,) = await self._kv.read([settling])
        more = await self._settler.settle([key for key, _ in answer.items], limit)
        return more or answer.more

    @retried
    async def open_needs(self, ids: Sequence[str]) -> list[int]:
        check_batch(len(ids))
        keys, rows = self._keys, await self._context.rows(ids)
        prefixes: dict[str, str] = {}
        for id, (_, row) in rows.items():
            thread = wait_of(row)
            if thread is not None and thread.needs:
                prefixes[id] = keys.needs(id, row.fence)
        answers = await self._kv.read([below(prefix, 1, keys_only=True) for prefix in prefixes.values()])
        counts = {id: answer.count for id, answer in zip(prefixes, answers, strict=True)}
        return [counts.get(id, 0) for id in ids]


def _parts(context: KVContext, key: str) -> tuple[str, str]:
    """The instance of a key below `settle/`, and what is to be settled about it."""
    id, _, what = key[len(context.keys.settling) :].partition("/")
    return id, what


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
