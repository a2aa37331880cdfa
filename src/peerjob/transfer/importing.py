"""Imports a namespace, a batch at a time; what the target has is skipped, so an import can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from msgspec import convert, structs

from peerjob.model.arguments import typed_except_secrets
from peerjob.model.clock import Clock
from peerjob.model.durable import MAX_CHILDREN_CALL, MAX_RESTORED_STEPS, MAX_STEPS_CALL
from peerjob.model.errors import DecodeError, PayloadTooLargeError, StoreUnavailableError
from peerjob.model.firing import Fire, FireOutcome, FireStatus, Overlap, SchedulePut
from peerjob.model.ids import id_time_us
from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Enqueued, NewInstance
from peerjob.model.restored import Restored
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT, LIMITS_LAYOUT

from .lines import End, Header, MovedInstance, MovedSchedule, MovedSteps, opened, read_line

NODE = "import"
"""The name that the history and the ledger show as the node."""
_TRIES = 10
_NO_LIMIT = 2**31 - 1
MAX_REFUSED = 1_000


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import."""

    schedules: int = 0
    """Number of schedules that the import added."""
    instances: int = 0
    known_schedules: int = 0
    """Number of schedules that were skipped, since the target has one of that name."""
    known_instances: int = 0
    """Number of instances that were skipped, since the target has them by their ids."""
    refused: tuple[tuple[str, str], ...] = ()
    """Pairs of ids: an instance that was not added, and the unfinished one that has its key; the first 1,000.

    For a child whose parent was not added, the second one is its parent.
    """
    refusals: int = 0
    """Number of these instances."""

    @property
    def seen(self) -> int:
        """Number of schedules and instances that were read."""
        return self.schedules + self.instances + self.known_schedules + self.known_instances + self.refusals


@typed_except_secrets("store")
async def import_namespace(
    store: str,
    lines: Iterable[bytes],
    *,
    namespace: str = "default",
    clock: Clock | None = None,
    on_progress: Callable[[Imported, Header], object] | None = None,
) -> Imported:
    """Add the schedules and instances of an export to the namespace at a store's URL.

    Skips instances that the target has, in any state, and schedules whose name it has. So an import that broke off can
    be repeated, until retention removes instances that have ended meanwhile. A body whose steps or children are missing
    does not run before that. Raises LayoutError for steps, waits and children, while a node that does not know them is
    alive. Raises DecodeError for a line that cannot
    be read, PayloadTooLargeError for an instance that the target cannot store, and, after it has imported all lines,
    DecodeError for an export that is not whole.
    """
    async with opened(store, namespace, clock) as target:
        return await _Import(target, on_progress).run(lines)


class _Import:
    """One import: reads lines, and writes them in batches."""

    def __init__(self, store: Store, on_progress: Callable[[Imported, Header], object] | None) -> None:
        self._store = store
        self._on_progress = on_progress
        self._header: Header | None = None
        self._schedules: list[MovedSchedule] = []
        self._instances: list[MovedInstance] = []
        self._durable: list[Restored] = []
        self._steps: list[MovedSteps] = []
        self._lines_of_steps = 0
        self._bytes = 0
        self._done = Imported()

    async def run(self, lines: Iterable[bytes]) -> Imported:
        number, ended = 0, False
        for number, line in enumerate(lines, 1):
            if ended:
                raise DecodeError(f"line {number} of the export comes after its end")
            ended = await self._take(number, line)
        await self._flush()
        if not ended:
            raise DecodeError(
                f"the export is not whole: it ends after line {number}, without its last line. Its {self._done.seen} "
                "schedules and instances were imported. Export again, and import that: what is there is skipped"
            )
        return self._done

    async def _take(self, number: int, line: bytes) -> bool:
        """Take one line; the result says whether it is the last one of a whole export."""
        value = read_line(number, line)
        if isinstance(value, Header):
            self._header = value
            return False
        if self._header is None:
            raise DecodeError("the export does not begin with its header; jobctl export writes one")
        match value:
            case End():
                await self._flush()
                self._check_whole(value)
                return True
            case MovedSchedule():
                self._schedules.append(value)
            case MovedInstance():
                limit = self._store.capabilities.max_payload
                if (size := len(value.spec) + len(value.result or b"") + len(value.error or b"")) > limit:
                    await self._flush()
                    what = "arguments and result" if value.state else "arguments"
                    raise PayloadTooLargeError(f"{what} of instance {value.id} (line {number})", size, limit)
                if value.is_durable:
                    await self._take_durable(value)
                else:
                    self._instances.append(value)
            case MovedSteps():
                # what belongs to a child comes before the line that lets its parent run
                if any(value.id in (other.id, other.parent) for other in self._steps):
                    await self._flush()
                self._steps.append(value)
                self._lines_of_steps += 1
        self._bytes += len(line)
        waiting = max(len(self._durable), len(self._steps))
        steps = sum(len(restored.steps) for restored in self._durable) + sum(len(line.steps) for line in self._steps)
        if (
            len(self._schedules) + len(self._instances) >= MAX_BATCH
            or waiting >= MAX_CHILDREN_CALL
            or steps + MAX_STEPS_CALL > MAX_RESTORED_STEPS
            or self._bytes >= MAX_BATCH_BYTES
        ):
            await self._flush()
        return False

    def _check_whole(self, end: End) -> None:
        for what, read, told in (
            ("schedules and instances", self._done.seen, end.schedules + end.instances),
            ("lines with steps", self._lines_of_steps, end.steps),
        ):
            if read != told:
                raise DecodeError(f"the export has {read} {what}, but its last line says {told}")

    async def _take_durable(self, instance: MovedInstance) -> None:
        """Take an instance that has a parent, steps or a wait, or gets them; after its parent and what it can read."""
        if self._steps or any(
            restored.instance.id in (instance.id, instance.parent)
            or restored.parent == instance.id
            or (restored.state.is_final and not instance.state)
            for restored in self._durable
        ):
            await self._flush()
        self._durable.append(instance.restored())

    async def _flush(self) -> None:
        """Write what was read. Schedules come first, since instances take their slots."""
        schedules, instances, durable, steps = self._schedules, self._instances, self._durable, self._steps
        self._schedules, self._instances, self._durable, self._steps, self._bytes = [], [], [], [], 0
        if schedules:
            await self._add_schedules(schedules)
        if instances:
            await self._add_instances(instances)
        if durable:
            await self._add_durable(durable)
        if steps:
            await self._add_steps(steps)
        if self._on_progress is not None and self._header is not None:
            self._on_progress(self._done, self._header)

    async def _add_schedules(self, schedules: Sequence[MovedSchedule]) -> None:
        puts = [
            structs.replace(convert(schedule, SchedulePut, from_attributes=True), trimmed_us=schedule.last_us)
            for schedule in schedules
        ]
        there = await self._store.get_schedules([put.name for put in puts])
        new = [put for put, row in zip(puts, there, strict=True) if row is None]
        rows = await asyncio.gather(*map(self._store.put_schedule, new))
        added = sum(row is not None for row in rows)
        known = self._done.known_schedules + len(schedules) - added
        self._done = replace(self._done, schedules=self._done.schedules + added, known_schedules=known)

    async def _add_instances(self, instances: Sequence[MovedInstance]) -> None:
        there = await self._store.get([instance.id for instance in instances])
        missing = [instance for instance, record in zip(instances, there, strict=True) if record is None]
        holders = {instance.slot: None for instance in missing if instance.slot}
        slots = dict(zip(holders, await self._store.get_schedules(list(holders)), strict=True)) if holders else {}
        await self._count_keys(missing)
        # without its schedule, an instance needs no slot
        plain = [instance for instance in missing if slots.get(instance.slot) is None]
        answers = await self._store.enqueue([instance.new() for instance in plain], node=NODE)
        refused = _refused(plain, answers)
        for instance in missing:
            if slots.get(instance.slot) is not None:
                refused += await self._add_with_slot(instance)
        self._count(instances, known=len(instances) - len(missing), refused=refused)

    def _count(self, instances: Sequence[object], *, known: int, refused: Sequence[tuple[str, str]]) -> None:
        """Count instances as added, except those that the target had, and those that it refused."""
        done = self._done
        self._done = replace(
            done,
            instances=done.instances + len(instances) - known - len(refused),
            known_instances=done.known_instances + known,
            refused=(*done.refused, *refused)[:MAX_REFUSED],
            refusals=done.refusals + len(refused),
        )

    async def _add_durable(self, instances: Sequence[Restored]) -> None:
        await self._store.require_layout(FLOWS_LAYOUT, "steps and children")
        await self._count_keys([restored.instance for restored in instances])
        answers = await self._store.restore(instances, node=NODE)
        refused = _refused([restored.instance for restored in instances], answers)
        self._count(instances, known=sum(answer.repeated for answer in answers), refused=refused)

    async def _add_steps(self, lines: Sequence[MovedSteps]) -> None:
        """Complete open instances. One that is not open has run since an earlier import, or was refused."""
        records = await self._store.get([line.id for line in lines])
        known = [
            line.restored(record.kind, record.due_us)
            for line, record in zip(lines, records, strict=True)
            if record is not None and record.open
        ]
        if known:
            await self._store.restore(known, node=NODE)

    async def _count_keys(self, instances: Sequence[NewInstance | MovedInstance]) -> None:
        """Raise the layout for instances with keys: below it, a store counts no key. Only nodes publish limits."""
        if any(instance.limit_key for instance in instances):
            await self._store.require_layout(LIMITS_LAYOUT, "key limits")

    async def _add_with_slot(self, instance: MovedInstance) -> list[tuple[str, str]]:
        """Let an instance take the slot of its schedule, or wait for it, as a trigger does."""
        # an instance that waits for a slot has never run, so it brings no crashes and no losses
        new = structs.replace(instance.new(), crashes=0, losses=0)
        for _ in range(_TRIES):
            (row,) = await self._store.get_schedules([instance.slot])
            if row is None:
                return _refused([instance], await self._store.enqueue([instance.new()], node=NODE))
            fire = Fire(
                schedule=instance.slot,
                revision=row.revision,
                nominal_us=id_time_us(instance.id),
                outcome=FireOutcome.TRIGGERED,
                request=instance.id,
                instance=new,
                overlap=Overlap.QUEUE,
                queue_limit=_NO_LIMIT,
                reason="imported",
            )
            (answer,) = await self._store.fire([fire], term=None, node=NODE)
            if answer.status is FireStatus.DONE:
                refused = answer.record is not None and answer.record.outcome is FireOutcome.SKIPPED
                return [(instance.id, "")] if refused else []
        raise StoreUnavailableError(self._store.url, f"schedule {instance.slot!r} changes all the time")


def _refused(instances: Sequence[NewInstance | MovedInstance], answers: Sequence[Enqueued]) -> list[tuple[str, str]]:
    """The ids of the instances that were not added, each with the id of what was there."""
    pairs = zip(instances, answers, strict=True)
    return [(instance.id, answer.id) for instance, answer in pairs if answer.id != instance.id]
