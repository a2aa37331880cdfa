"""Creates instances for past nominal times of a schedule, on request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from peerjob.cluster.fires import new_instance
from peerjob.handles.schedule import Backfill
from peerjob.model.clock import Clock
from peerjob.model.definition import Definition, decode_definition
from peerjob.model.errors import ScheduleError
from peerjob.model.firing import Fire, FireAnswer, FireOutcome, FireStatus, Overlap, ScheduleRow
from peerjob.model.ids import IdSource
from peerjob.model.recurrence import recurrence_of
from peerjob.store.base import Store

MAX_TIMES = 100_000
"""Most nominal times in one backfill."""
BATCH = 100
CHUNK = 500
"""Nominal times to compute before the event loop runs other tasks."""


async def backfill(
    *,
    clock: Clock,
    store: Store,
    row: ScheduleRow,
    start_us: int,
    end_us: int,
    ids: IdSource,
    now_us: int,
    node: str = "",
    overlap: Overlap = Overlap.ALLOW,
    on_progress: Callable[[Backfill], None] = lambda _: None,
) -> Backfill:
    """Make an instance, due now, for each nominal time from start to before end that has none.

    The leader fires the next time of the schedule and all later ones, so backfill ends before it. For a paused
    schedule, backfill ends now. `overlap` replaces the policy of the definition. Raises ScheduleError, with nothing
    made, for more than 100,000 times. Also raises ScheduleError if a caller changes or removes the schedule during
    the backfill; the instances that were made stay.
    """
    definition = decode_definition(row.definition)
    over_us = now_us + 1 if row.paused or row.next_us is None else min(now_us + 1, row.next_us)
    nominals = await _bounded(recurrence_of(definition).times(start_us - 1, min(end_us, over_us) - 1), row.name)
    counts = Backfill(times=len(nominals))
    for at in range(0, len(nominals), BATCH):
        left = nominals[at : at + BATCH]
        while left:
            fires = [
                _fire(row, definition, nominal_us, id, clock.time_us(), overlap)
                for nominal_us, id in zip(left, ids.take(len(left)), strict=True)
            ]
            answers: list[FireAnswer] = await store.fire(fires, term=None, node=node)
            counts = _counted(counts, answers)
            left = [
                fire.nominal_us
                for fire, answer in zip(fires, answers, strict=True)
                if answer.status is FireStatus.STALE
            ]
            if left:
                row = await _read_again(store, row)
        on_progress(counts)
    return counts


def _fire(
    row: ScheduleRow, definition: Definition, nominal_us: int, id: str, created_us: int, overlap: Overlap
) -> Fire:
    return Fire(
        schedule=row.name,
        revision=row.revision,
        nominal_us=nominal_us,
        outcome=FireOutcome.BACKFILLED,
        request=id,
        instance=new_instance(definition, schedule=row.name, id=id, created_us=created_us, nominal_us=nominal_us),
        overlap=overlap,
        queue_limit=definition.queue_limit,
    )


def _counted(counts: Backfill, answers: Sequence[FireAnswer]) -> Backfill:
    statuses = Counter(answer.status for answer in answers)
    skipped = sum(
        answer.status is FireStatus.DONE and answer.record is not None and answer.record.outcome is FireOutcome.SKIPPED
        for answer in answers
    )
    return msgspec.structs.replace(
        counts,
        made=counts.made + statuses[FireStatus.DONE] - skipped,
        known=counts.known + statuses[FireStatus.KNOWN],
        trimmed=counts.trimmed + statuses[FireStatus.TRIMMED],
        skipped=counts.skipped + skipped,
    )


async def _bounded(times: Iterator[int], name: str) -> list[int]:
    """All times; raises ScheduleError for too many. The event loop runs other tasks after each chunk."""
    all_times: list[int] = []
    while chunk := list(islice(times, CHUNK)):
        all_times += chunk
        if len(all_times) > MAX_TIMES:
            raise ScheduleError(
                f"backfill of {name!r}: expected at most {MAX_TIMES:,} nominal times in the range, got more; "
                "divide it into several"
            )
        await asyncio.sleep(0)
    return all_times


async def _read_again(store: Store, old: ScheduleRow) -> ScheduleRow:
    """The current row after the store called a fire stale; raises ScheduleError if the definition has changed."""
    (row,) = await store.get_schedules([old.name])
    if row is None:
        raise ScheduleError(f"backfill of {old.name!r}: the schedule was removed meanwhile")
    if row.definition != old.definition or row.revision == old.revision:
        raise ScheduleError(f"backfill of {old.name!r}: the schedule was changed meanwhile; ask again")
    return row
