"""Invariants of fires, also after faults of the leaders that fired them."""

import time
from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

from peerjob import FireEntry, FireOutcome, Instance, Manager, Schedule, State
from peerjob.cluster.misfire import MIN_TOLERANCE_US
from peerjob.model.clock import to_us
from peerjob.model.recurrence import recurrence_of
from support.leaders import SECOND, accounted
from support.peers import check_histories, everything
from support.stalls import Stalls
from support.waiting import PATIENCE, until

CLOCK_ERROR_US = 500_000
"""How much a node may be mistaken about the store's clock, while answers are slow; a run never begins early."""
ON_TIME = MIN_TOLERANCE_US / SECOND
UNDER_WAY_US = 10_000_000
"""How long a schedule may be under way to the store, after it was decided when it is first due."""


def hourly() -> str:
    """A cron text that is due once in each hour, and not in the next half of one."""
    return f"{int(time.time() // 60 + 30) % 60} * * * *"


async def read_fires(client: Manager, name: str) -> list[FireEntry]:
    """The whole ledger of a schedule, earliest nominal time first."""
    entries: list[FireEntry] = []
    cursor: str | None = None
    while True:
        page = await client.fires(name, cursor=cursor)
        entries += [entry for entry in page if not entry.ongoing]
        cursor = page.cursor
        if cursor is None:
            return entries[::-1]


async def fired_until(client: Manager, name: str, moment_us: int, *, timeout: float = PATIENCE) -> None:
    """Wait until a nominal time at or after a moment is accounted for."""

    async def look() -> bool:
        return (await client.lookup_schedule(name)).row.last_us >= moment_us

    await until(look, timeout)


async def settled(
    client: Manager, *, ends: Set[State] = frozenset({State.COMPLETED}), timeout: float = PATIENCE
) -> dict[str, list[FireEntry]]:
    """Pause every schedule, wait for the end of all that was started, and audit it; answers the ledgers by name."""
    schedules = [await schedule.pause() for schedule in await client.schedules()]
    await client.wait(timeout=timeout)
    instances = await everything(client)
    check_histories(instances)
    assert {one.state for one in instances} <= ends
    ledgers: dict[str, list[FireEntry]] = {}
    for schedule in schedules:
        entries = ledgers[schedule.name] = await read_fires(client, schedule.name)
        check_ledger(await schedule.refresh(), entries)
        check_one_fire(entries, {one.id: one for one in instances if one.schedule == schedule.name})
    return ledgers


def check_ledger(schedule: Schedule, entries: list[FireEntry]) -> None:
    """Each nominal time, from the schedule's making to its last fire, is accounted for, and no other is."""
    times = accounted((entry.record for entry in entries), schedule.definition)
    recurrence = recurrence_of(schedule.definition)
    created_us, latest_us = schedule.row.created_us, recurrence.next_after(schedule.row.created_us + CLOCK_ERROR_US)
    assert latest_us is not None
    assert created_us - UNDER_WAY_US <= times[0] <= latest_us
    assert times == list(recurrence.times(times[0] - 1, schedule.row.last_us))
    assert schedule.row.next_us == recurrence.next_after(times[-1])


def check_one_fire(entries: list[FireEntry], instances: Mapping[str, Instance[Any]]) -> None:
    """ONE-FIRE: each time that was fired has one instance, no other has any, and nothing comes early."""
    fired = {entry.instance_id: entry for entry in entries if entry.outcome is FireOutcome.FIRED}
    assert {entry.instance_id for entry in entries} - fired.keys() <= {None}
    assert instances.keys() == fired.keys()
    nominals = Counter(one.nominal_at for one in instances.values())
    assert nominals.most_common(1)[0][1] == 1, nominals.most_common(3)
    for id, one in instances.items():
        nominal = fired[id].nominal
        assert one.nominal_at == nominal, one
        assert to_us(nominal) - CLOCK_ERROR_US <= fired[id].record.at_us, fired[id].to_dict()
        assert one.processed_at is None or nominal <= one.processed_at


def neglected(entries: list[FireEntry], stalls: Stalls) -> list[FireEntry]:
    """Nominal times without a fire in time, except those during a stall of the machine."""
    return [entry for entry in entries if entry.outcome is not FireOutcome.FIRED and late(entry, stalls) > ON_TIME]


def late(entry: FireEntry, stalls: Stalls) -> float:
    """Seconds from a nominal time to its record, without the seconds in which the machine stalled."""
    record = entry.record
    return (record.at_us - record.nominal_us) / SECOND - stalls.between(record.nominal_us, record.at_us)


def outcomes(entries: list[FireEntry]) -> dict[FireOutcome, int]:
    """How many nominal times came to what."""
    counts: Counter[FireOutcome] = Counter()
    for entry in entries:
        counts[entry.outcome] += entry.count
    return dict(counts)
