"""The verb `spawn`: a running instance makes children.

A child without needs comes in one transaction. Any other child is open at first, so it does not run. Then its needs are
attached, and last it is closed. If the caller ends in between, its body runs again and sends the same children again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.record import Enqueued, Held, NewChild
from peerjob.model.state import State
from peerjob.store.durable_checks import check_children
from peerjob.store.kv.format.base import Compare, Put, Range, Transaction, mod_of
from peerjob.store.kv.format.keys import prefix_end
from peerjob.store.kv.format.rows import Row, encode, is_gone, owned_of
from peerjob.store.kv.format.thread_rows import NO_THREAD, StoredThread, thread_of, with_thread
from peerjob.store.kv.queue.attaching import NewNeed, attach
from peerjob.store.kv.queue.enqueue import arrival_of, gate_of_new, plan_instance
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.gates import Gate, stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS

from .entering import EndOfWait, write_ends


class _Call(msgspec.Struct):
    """What is left of one call, and its answers."""

    parent: str
    pending: dict[int, NewChild]
    answers: dict[int, Enqueued] = {}
    added: set[str] = set()
    """Children that the call has added, and for which it has not answered yet."""
    settles: list[str] = []
    """Keys below `settle/` that were written."""
    came: dict[Gate, set[str]] = {}
    """Limit keys to settle; see `Wakeups.came`."""

    def first_of_each(self) -> dict[str, tuple[int, NewChild]]:
        """The pending children by id, each with its index; a child that comes twice in the call waits for itself."""
        first: dict[str, tuple[int, NewChild]] = {}
        for index, child in self.pending.items():
            first.setdefault(child.instance.id, (index, child))
        return first


class SpawnCommands(KVCommands):
    """The verb `spawn`."""

    @retried
    async def spawn(self, incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        context = self._context
        check_children(parent.id, children, context.kv.layout)
        call = _Call(parent.id, dict(enumerate(children)))
        failures, guard = 0, None
        try:
            while failures < ROUNDS:
                guard = await self._claimed(incarnation, parent, marks=bool(children))
                if guard is None or not call.pending:
                    break
                if self._kv.full:
                    raise StoreFullError(f"the store at {context.url} is nearly full and takes no new instances")
                answered = len(call.answers)
                await self._add(incarnation, call, guard)
                await self._complete(call, guard)
                await context.hints.settle(call.settles, incarnation)
                call.settles = []
                failures += len(call.answers) == answered
        except BaseException:
            self._writer.owe(call.came)
            raise
        # after the last round, so that each key admits the best children of the call
        await context.settle(call.came)
        if guard is None:
            return None
        if call.pending:
            raise StoreUnavailableError(context.url, "too many writers at once")
        return [call.answers[index] for index in range(len(children))]

    async def _claimed(self, incarnation: str, parent: Held, *, marks: bool) -> Compare | None:
        """A compare that holds while the claim does; None if the caller does not hold it.

        With `marks`, the record of the parent says from now on that it has children.
        """
        context, keys = self._context, self._keys
        for _ in range(ROUNDS):
            owned, state = await self._kv.get([keys.owned(incarnation) + parent.id, keys.state + parent.id])
            claim = None if owned is None else owned_of(owned.value)
            row = None if state is None else await context.row_of(parent.id, state)
            if claim is None or claim.releasing or state is None or row is None:
                return None
            if (row.state, row.owner, row.fence) != (State.PROCESSING, incarnation, parent.fence):
                return None
            guard = Compare(keys.owned(incarnation) + parent.id, mod=mod_of(owned))
            thread = thread_of(row) or NO_THREAD
            if thread.children or not marks:
                return guard
            after = with_thread(row, replace(thread, children=True))
            put = Put(keys.state + parent.id, encode(after))
            applied = await self._kv.txn([Transaction([guard, Compare(put.key, mod=state.mod)], [put])])
            if applied.answers[0] is not None:
                context.cache(parent.id, applied.revision, after)
                return guard
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def _add(self, incarnation: str, call: _Call, guard: Compare) -> None:
        """Add the children that do not exist."""
        context, keys, now_us = self._context, self._keys, self._clock.time_us()
        children = call.first_of_each()
        states = await self._kv.get([keys.state + id for id in children])
        new = {id: child for (id, (_, child)), state in zip(children.items(), states, strict=True) if state is None}
        if not new:
            return
        ready = [child.instance for child in new.values() if not _comes_open(child)]
        gates = await context.gates.plan(gate_of_new(instance, now_us) for instance in ready)
        if gates is not None:
            gates.expect(arrival for child in ready if (arrival := arrival_of(child, now_us)) is not None)
        node = await context.name_of(incarnation)
        wakeups = Wakeups(changed=list(new), came=call.came)
        changes: list[Change] = []
        for id, child in new.items():
            plan = TransactionPlan(keys, now_us, gates=gates)
            opens = _comes_open(child)
            thread = StoredThread(parent=call.parent, held=True, open=opens, waits=opens, needs=opens)
            plan_instance(plan, child.instance, node, thread=thread)
            wakeups.add_queued(plan)
            changes.append(plan.change([Compare(keys.state + id)]))
        written = await self._writer.write(changes, guards=[guard, *stamps(gates)])
        call.added |= {id for id, _ in written.applied(new)}
        wakeups.came = {}
        await context.hints.send(wakeups, written)

    async def _complete(self, call: _Call, guard: Compare) -> None:
        """Attach the needs of open children, close them, and answer for children that are as the caller wants them."""
        context, keys = self._context, self._keys
        children = call.first_of_each()
        # what the call has added whole is as the caller wants it
        known = {
            id: (index, child) for id, (index, child) in children.items() if id in call.added and not _comes_open(child)
        }
        rest = [id for id in children if id not in known]
        states = await self._kv.get([keys.state + id for id in rest]) if rest else []
        missing = {id: children[id][0] for id, state in zip(rest, states, strict=True) if state is None}
        needs: list[NewNeed] = []
        closing: set[str] = set()
        for id, state in zip(rest, states, strict=True):
            index, child = children[id]
            # a conflict left out a child: those that need it, and come after it, wait for the next round
            if state is None or any(missing.get(need.id, index) < index for need in child.needs):
                continue
            known[id] = index, child
            row = None if is_gone(state) else await context.row_of(id, state)
            thread = None if row is None else thread_of(row)
            if row is not None and (thread is None or thread.parent != call.parent):
                raise ValueError(f"child {id} of {call.parent}: another instance has this id")
            if row is not None and is_open(row):
                for need in child.needs:
                    comes_later = need.id in call.added and children[need.id][0] > index
                    needs.append(NewNeed(id, 0, call.parent, need, comes_later))
                closing |= set() if child.more else {id}
        if not await attach(context, guard, needs, call.settles):
            return
        if closing and not await self._close(closing, guard):
            return
        for id, (index, _) in known.items():
            call.answers[index] = Enqueued(id, True, repeated=id not in call.added)
            call.added.discard(id)
            del call.pending[index]

    async def _close(self, ids: set[str], guard: Compare) -> bool:
        """Close children; each enters its queue if it has no need left. False: to be tried again."""
        context = self._context
        rows = await context.rows(sorted(ids))
        ends: dict[str, EndOfWait] = {}
        for (id, (revision, row)), compares in zip(rows.items(), await left_of(context, list(rows)), strict=True):
            thread = thread_of(row)
            if thread is not None and is_open(row):
                after = with_thread(row, replace(thread, open=False))
                ends[id] = EndOfWait(revision, row, after, compares=compares, enters=not compares)
        return len(await write_ends(context, ends, [guard])) == len(ends)


def _comes_open(child: NewChild) -> bool:
    """Whether a child comes in several transactions."""
    return bool(child.needs) or child.more


def is_open(row: Row) -> bool:
    """Whether an instance is open."""
    thread = thread_of(row)
    return thread is not None and thread.open and not row.final


async def left_of(context: KVContext, ids: Sequence[str]) -> list[list[Compare]]:
    """For each instance that was never claimed, a compare of a need that is left, if there is one.

    The settling of that need comes after a transaction with the compare, and ends the wait.
    """
    prefixes = [context.keys.needs(id, 0) for id in ids]
    left = await context.kv.read([Range(prefix, prefix_end(prefix), 1, True, True) for prefix in prefixes])
    return [[Compare(name, mod=entry.mod) for name, entry in last.items] for last in left]
