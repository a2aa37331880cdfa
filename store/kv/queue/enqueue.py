"""Created → Scheduled: the verb `enqueue`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from peerjob.model.errors import StoreError, StoreFullError, StoreUnavailableError
from peerjob.model.record import LAST_MOMENT_US, Enqueued, NewInstance, Transition, check_batch
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Put
from peerjob.store.kv.format.limit_rows import extra_of
from peerjob.store.kv.format.rows import SMALL, Row, encode, is_gone
from peerjob.store.kv.format.thread_rows import StoredThread, with_thread
from peerjob.store.kv.write.context import KVCommands, retried
from peerjob.store.kv.write.gates import Arrival, Gate, stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS

_FEW_OPS = 16
"""A change of at most so many operations shares its request with another one."""


class EnqueueCommands(KVCommands):
    """The verb `enqueue`."""

    @retried
    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        check_batch(len(instances))
        if self._kv.full:
            raise StoreFullError(f"the store at {self._context.url} is nearly full and takes no new instances")
        answers: dict[int, Enqueued] = {}
        pending = dict(enumerate(instances))
        unowned: dict[str, int] = {}
        came: dict[Gate, set[str]] = {}
        try:
            for _ in range(ROUNDS):
                await self._add_pending(pending, answers, unowned, node, came)
                if not pending:
                    break
                unowned = await self._answer_known(pending, answers)
        except BaseException as error:
            if isinstance(error, StoreError):
                error.is_unsure |= bool(answers)
            self._writer.owe(came)
            raise
        # after the last round, so that each key admits the best instances of the call
        if came:
            await self._context.settle(came)
        if pending:
            raise StoreUnavailableError(self._context.url, "too many writers at once")
        return [answers[index] for index in range(len(instances))]

    async def _add_pending(
        self,
        pending: dict[int, NewInstance],
        answers: dict[int, Enqueued],
        unowned: dict[str, int],
        node: str,
        came: dict[Gate, set[str]],
    ) -> None:
        """Try to add the pending instances; of those with the same id or the same unique key, only the first.

        `came` gets the limit keys that are to be settled, see `Wakeups.came`.
        """
        keys, now_us = self._keys, self._clock.time_us()
        wakeups = Wakeups(came=came)
        changes: list[Change] = []
        rows: list[Row] = []
        first = self._first_of_each(pending, unowned)
        gates = await self._context.gates.plan(gate_of_new(new, now_us) for new in pending.values())
        if gates is not None:
            if gates.may_change(_arrivals(pending, first, now_us)):
                # an instance that is refused must not change the concurrency of its key
                unowned = await self._answer_known(pending, answers)
                if not (first := self._first_of_each(pending, unowned)):
                    return
            gates.expect(_arrivals(pending, first, now_us))
        for index, compares in first.items():
            new = pending[index]
            plan = TransactionPlan(keys, now_us, gates=gates)
            rows.append(plan_instance(plan, new, node))
            wakeups.add_queued(plan)
            wakeups.changed.append(new.id)
            changes.append(plan.change(compares))
        sleeper = self._sleeper(changes, rows, wakeups)
        if sleeper is not None:
            changes += [self._waking(*sleeper, changes[0])]
        with self._context.own_hints.relied_on([] if sleeper is None else [(sleeper[0], "work/")]):
            written = await self._writer.write(changes, guards=stamps(gates))
        if sleeper is not None:
            self._has_woken(sleeper[0], pending[next(iter(first))].id, rows[0], written.revisions)
            wakeups.ready = {} if written.revisions.pop() else wakeups.ready
        for index, _ in written.applied(first):
            answers[index] = Enqueued(pending.pop(index).id, True)
        wakeups.came = {}
        await self._context.hints.send(wakeups, written)

    def _first_of_each(
        self, pending: Mapping[int, NewInstance], unowned: Mapping[str, int]
    ) -> dict[int, list[Compare]]:
        """Index → compares, of the first instance with each id and each unique key."""
        keys = self._keys
        first: dict[int, list[Compare]] = {}
        seen: set[str] = set()
        for index, new in pending.items():
            unique = None if new.key is None else keys.unique(new.kind, new.key)
            state = keys.state + new.id
            if state in seen or (unique is not None and unique in seen):
                continue
            first[index] = [Compare(state)]
            seen.add(state)
            if unique is not None:
                seen.add(unique)
                first[index].append(Compare(unique, mod=unowned.get(unique, 0)))
        return first

    def _sleeper(self, changes: Sequence[Change], rows: Sequence[Row], wakeups: Wakeups) -> tuple[str, int] | None:
        """An own incarnation that the request itself can wake, see `OwnHints.sleeper`: for a single small instance."""
        if len(changes) > 1 or not wakeups.ready or rows[0].spec is None or len(changes[0].ops) > _FEW_OPS:
            return None
        return self._context.own_hints.sleeper(rows[0].kind)

    def _waking(self, incarnation: str, revision: int, adding: Change) -> Change:
        """The end of a registration as idle, if the instance is added."""
        idle = self._keys.idle + incarnation
        return Change([Compare(idle, mod=revision), *adding.compares], [Delete(idle)])

    def _has_woken(self, incarnation: str, id: str, row: Row, revisions: Sequence[int]) -> None:
        added, woken = revisions
        own = self._context.own_hints
        own.is_woken(incarnation, row.kind if woken else "")
        if woken:
            own.keep(incarnation, "work/")
        if added and woken:
            # the incarnation claims it next
            self._context.cache(id, added, row)

    async def _answer_known(self, pending: dict[int, NewInstance], answers: dict[int, Enqueued]) -> dict[str, int]:
        """Answer for instances that exist, or whose unique key is taken.

        The result has the unique keys whose instance is gone, with their revisions: the next round takes these keys.
        """
        keys, order = self._keys, list(pending.items())
        states = await self._kv.get([keys.state + new.id for _, new in order])
        uniques = {index: keys.unique(new.kind, new.key) for index, new in order if new.key is not None}
        owners = dict(zip(uniques, await self._kv.get(list(uniques.values())), strict=True))
        owner_ids = [entry.value.decode(errors="replace") for entry in owners.values() if entry is not None]
        present = dict(zip(owner_ids, await self._kv.get([keys.state + id for id in owner_ids]), strict=True))
        unowned: dict[str, int] = {}
        for (index, new), state in zip(order, states, strict=True):
            owner = owners.get(index)
            if state is not None:
                answers[index] = Enqueued(new.id, True, repeated=True)
            elif owner is not None:
                owner_id = owner.value.decode(errors="replace")
                if is_gone(present[owner_id]):
                    unowned[uniques[index]] = owner.mod
                    continue
                answers[index] = Enqueued(owner_id, False)
            else:
                continue
            del pending[index]
        return unowned


def _arrivals(pending: Mapping[int, NewInstance], indexes: Iterable[int], now_us: int) -> list[Arrival]:
    arrivals = (arrival_of(pending[index], now_us) for index in indexes)
    return [arrival for arrival in arrivals if arrival is not None]


def gate_of_new(new: NewInstance, now_us: int) -> Gate | None:
    """The limit key to whose gate a new instance comes at once."""
    return (new.kind, new.limit_key) if new.limit_key and _due_us(new, now_us) <= now_us else None


def arrival_of(new: NewInstance, now_us: int) -> Arrival | None:
    """A new instance that comes to its gate at once."""
    gate, due_us = gate_of_new(new, now_us), _due_us(new, now_us)
    return None if gate is None else Arrival(gate, new.key_concurrency, True, new.priority, due_us, new.id)


def _due_us(new: NewInstance, now_us: int) -> int:
    due_us = now_us if new.due_us is None else new.due_us
    return min(due_us if new.delay_us is None else now_us + new.delay_us, LAST_MOMENT_US)


def plan_instance(
    plan: TransactionPlan,
    new: NewInstance,
    node: str,
    *,
    slot: str = "",
    parked: bool = False,
    thread: StoredThread | None = None,
) -> Row:
    """Plan an instance with everything that belongs to it. A parked instance enters no queue yet."""
    row = row_of_new(new, plan.now_us, node, slot)
    if thread is not None:
        row = with_thread(row, thread)
    plan_row(plan, new, row, parent="" if thread is None else thread.parent)
    if parked:
        plan.index_scheduled(new.id, row)
    elif thread is not None and thread.waits:
        plan.add_outside(new.id, row)
    else:
        plan.add_scheduled(new.id, row)
    return row


def row_of_new(new: NewInstance, now_us: int, node: str, slot: str = "") -> Row:
    """The record of a new instance."""
    return Row(
        new.kind,
        State.SCHEDULED,
        new.priority,
        _due_us(new, now_us),
        (Transition(State.CREATED, now_us, node), Transition(State.SCHEDULED, now_us, node)),
        attempts=new.attempts,
        crashes=new.crashes,
        losses=new.losses,
        key=new.key,
        tags=new.tags,
        retention_us=new.retention_us,
        max_crashes=new.max_crashes,
        slot=slot,
        spec=new.spec if len(new.spec) <= SMALL else None,
        extra=extra_of(new),
    )


def plan_row(plan: TransactionPlan, new: NewInstance, row: Row, *, parent: str = "") -> None:
    """Plan the record of a new instance, and all that belongs to it besides its queue and the index of its state."""
    keys = plan.keys
    if parent:
        plan.ops.append(Put(keys.children(parent) + new.id, b""))
    plan.ops.append(Put(keys.state + new.id, encode(row)))
    if row.spec is None:
        plan.ops.append(Put(keys.args + new.id, new.spec))
    if new.key is not None:
        plan.ops.append(Put(keys.unique(new.kind, new.key), new.id.encode()))
    plan.ops.extend(Put(keys.tag(tag) + new.id, b"") for tag in dict.fromkeys(new.tags))
