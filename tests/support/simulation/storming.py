"""Runs one random program against a store, to its rest, and judges it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from peerjob.model.clock import Clock
from peerjob.model.query import MAX_LIMIT, Query
from peerjob.model.record import Record
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT
from support.leaders import read_ledger
from support.leftovers import leftovers_of

from .checker import check
from .evidence import Evidence, Ledger, Violation
from .gathering import steps_of
from .storm import Storm
from .storm_durable import go_on
from .storm_holder import Holder
from .storm_parts import SCHEDULES, Caller, FiringLeader

PEERS = 3
ROUNDS = 40
"""Things that each peer, the caller and each leader does."""
REST = 400
"""Rounds within which everything is final."""


async def storm(
    store: Store, clock: Clock, seed: int, *, short_ttl_us: int
) -> tuple[list[Violation], Counter[tuple[str, str]]]:
    """Run the program of a seed on an open store whose namespace is empty; the violations, and the faults it met."""
    part = Storm(store, clock, seed, short_ttl_us=short_ttl_us)
    holders = [Holder(part, number) for number in range(PEERS)]
    leaders = [FiringLeader(part, number) for number in range(2)]
    if part.is_durable:
        await store.require_layout(FLOWS_LAYOUT, "durable bodies")
    await leaders[0].make()
    async with asyncio.TaskGroup() as group:
        for work in (*(holder.work for holder in holders), Caller(part).work, *(leader.work for leader in leaders)):
            group.create_task(work(ROUNDS))
    part.calm = True
    part.faults.clear()
    await _rest(part, holders)
    violations = [Violation("CONTRACT", f"seed {seed}", text) for text in part.surprises]
    evidence = await _gather(part, holders)
    violations += check(evidence)
    violations += _unlike(part, evidence.records)
    return violations, Counter({(verb, how): times for (verb, how), times in part.faults.happened.items()})


async def _rest(part: Storm, holders: Sequence[Holder]) -> None:
    for _ in range(REST):
        if part.is_durable:
            await go_on(part, part.chance_of("rest"))
        for holder in holders:
            await holder.finish()
            await holder.reap()
        if not [record async for record in _records(part.quiet, Query(state="active", limit=1))]:
            break
        await asyncio.sleep(0.01)
    # a peer that has just joined may take another one for dead only once it has been there for as long as a lease
    await asyncio.sleep(1.2 * part.short_ttl_us / 1_000_000)
    for holder in holders:
        await holder.reap()


async def _gather(part: Storm, holders: Sequence[Holder]) -> Evidence:
    store = part.quiet
    records = {record.id: record async for record in _records(store, Query(limit=MAX_LIMIT))}
    logs = {id: (await store.logs(id)).lines for id in records}
    ledgers: list[Ledger] = []
    for row in await store.get_schedules(SCHEDULES):
        if row is not None:
            found = tuple(await read_ledger(store, row.name))
            ledgers.append(Ledger(row=row, records=found, definitions=(part.definition(row),)))
    part.durable.steps = {id: await steps_of(store, id) for id in records if part.is_durable}
    evidence = Evidence(
        ended_us=part.clock.time_us(),
        orders=part.orders,
        records=records,
        logs=logs,
        runs=part.runs,
        absences=part.absences,
        ledgers=ledgers,
        durable=part.durable,
        strict=False,  # peers claim at the same time, so the order of claims is not known outside the store
    )
    for holder in holders:
        await holder.leave()
    await store.clear()
    await store.expire(1000)
    evidence.leftovers = await leftovers_of(store)
    return evidence


def _unlike(part: Storm, records: Mapping[str, Record]) -> list[Violation]:
    """Where a record is not what the model says: the one final outcome that the store accepted."""
    found: list[Violation] = []
    for id, (state, fence) in part.ended.items():
        record = records.get(id)
        if record is None or record.state is not state or (fence and record.fence != fence):
            what = "gone" if record is None else f"{record.state!s} under fence {record.fence}"
            found.append(Violation("MODEL", id, f"the store accepted {state!s} under fence {fence}, and it is {what}"))
    return found


async def _records(store: Store, query: Query) -> AsyncIterator[Record]:
    while True:
        page = await store.lookup(query)
        for record in page.records:
            yield record
        if page.cursor is None:
            return
        query = query.at(page.cursor)
