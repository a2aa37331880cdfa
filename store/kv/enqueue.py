"""Created → Scheduled: how instances come in."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.record import MAX_BATCH, Enqueued, NewInstance, Transition
from peerjob.model.state import State

from .base import Compare, Put
from .context import KVContext
from .hints import Wakeups
from .rows import SMALL, Row, encode, is_gone
from .slots import StepPlan
from .writer import ROUNDS, Change


class EnqueueCommands:
    """The verb `enqueue`."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        context = self._context
        check_batch(len(instances))
        if context.kv.full:
            raise StoreFullError(f"the store at {context.url} is nearly full and takes no new instances")
        answers: dict[int, Enqueued] = {}
        pending = dict(enumerate(instances))
        taken: dict[str, int] = {}
        for attempt in range(ROUNDS):
            await self._round(pending, answers, taken, node, looked=attempt > 0)
            if not pending:
                return [answers[place] for place in range(len(instances))]
            taken = await self._settle(pending, answers)
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def _round(
        self,
        pending: dict[int, NewInstance],
        answers: dict[int, Enqueued],
        taken: dict[str, int],
        node: str,
        *,
        looked: bool,
    ) -> None:
        """Try to add all that are pending, but of each id and each key only the first."""
        context, keys = self._context, self._context.keys
        now_us = context.clock.time_us()
        wakeups = Wakeups()
        changes: list[Change] = []
        places: list[int] = []
        seen: set[str] = set()
        for place, new in pending.items():
            unique = None if new.key is None else keys.unique(new.kind, new.key)
            state = keys.state + new.id
            if state in seen or (unique is not None and unique in seen):
                continue
            compares = [Compare(state)]
            seen.add(state)
            if unique is not None:
                seen.add(unique)
                compares.append(Compare(unique, mod=taken.get(unique, 0)))
            plan = StepPlan([], [], [])
            born(context, new, now_us, node, plan)
            wakeups.add_queued(plan)
            wakeups.changed.append(new.id)
            changes.append(context.change(plan, compares))
            places.append(place)
        written = await context.writer.write(changes, now_us=now_us)
        for place, revision in zip(places, written.revisions, strict=True):
            if revision:
                answers[place] = Enqueued(pending.pop(place).id, True)
        await context.hints.send(wakeups, written)

    async def _settle(self, pending: dict[int, NewInstance], answers: dict[int, Enqueued]) -> dict[str, int]:
        """Answer those that were added before, or whose key is taken; keys without an owner may be taken over."""
        context, keys = self._context, self._context.keys
        order = list(pending.items())
        states = await context.kv.get([keys.state + new.id for _, new in order])
        uniques = {place: keys.unique(new.kind, new.key) for place, new in order if new.key is not None}
        owners = dict(zip(uniques, await context.kv.get(list(uniques.values())), strict=True))
        owner_ids = [entry.value.decode(errors="replace") for entry in owners.values() if entry is not None]
        present = dict(zip(owner_ids, await context.kv.get([keys.state + id for id in owner_ids]), strict=True))
        taken: dict[str, int] = {}
        for (place, new), state in zip(order, states, strict=True):
            owner = owners.get(place)
            if state is not None:
                answers[place] = Enqueued(new.id, True)
            elif owner is not None:
                owner_id = owner.value.decode(errors="replace")
                if is_gone(present[owner_id]):
                    taken[uniques[place]] = owner.mod
                    continue
                answers[place] = Enqueued(owner_id, False)
            else:
                continue
            del pending[place]
        return taken


def born(
    context: KVContext,
    new: NewInstance,
    now_us: int,
    node: str,
    plan: StepPlan,
    *,
    slot: str = "",
    parked: bool = False,
) -> Row:
    """StepPlan an instance with all that belongs to it; a parked one is in no queue yet."""
    keys = context.keys
    due_us = now_us if new.due_us is None else new.due_us
    if new.delay_us is not None:
        due_us = now_us + new.delay_us
    row = Row(
        new.kind,
        State.SCHEDULED,
        new.priority,
        due_us,
        (Transition(State.CREATED, now_us, node), Transition(State.SCHEDULED, now_us, node)),
        key=new.key,
        tags=new.tags,
        retention_us=new.retention_us,
        max_crashes=new.max_crashes,
        slot=slot,
        spec=new.spec if len(new.spec) <= SMALL else None,
    )
    plan.ops.append(Put(keys.state + new.id, encode(row)))
    if row.spec is None:
        plan.ops.append(Put(keys.args + new.id, new.spec))
    if parked:
        context.show(new.id, row, plan)
    else:
        context.enter(new.id, row, now_us, plan)
    if new.key is not None:
        plan.ops.append(Put(keys.unique(new.kind, new.key), new.id.encode()))
    plan.ops.extend(Put(keys.tag(tag) + new.id, b"") for tag in dict.fromkeys(new.tags))
    return row


def check_batch(size: int) -> None:
    """Refuse a batch that is too large."""
    if size > MAX_BATCH:
        raise ValueError(f"a call holds at most {MAX_BATCH} instances, got {size}")
