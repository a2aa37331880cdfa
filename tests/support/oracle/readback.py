"""Reads all that a store can tell, as plain data, so that two stores can be compared."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from itertools import combinations
from typing import Any

from peerjob.model.activity_sample import MAX_SLOTS
from peerjob.model.clock import to_datetime
from peerjob.model.query import Query
from peerjob.model.record import Record
from peerjob.model.state import State

from .compare import plain
from .flow_calls import flows_of, wrong_notes
from .known import Known
from .limit_calls import keys_of, limit_keys_of, limits_of
from .names import Side
from .query_calls import SLOT_US

STATES = ("Scheduled", "Processing", "Cancelled", "TimedOut", "Completed", "Terminated", "Active", "Error", "Final")
PAIRS = 6
"""Pairs of criteria that one reading asks for; another reading draws other pairs."""


class Reading:
    """What one reading of both stores asks for: the same of each."""

    def __init__(self, known: Known, schedules: Sequence[str], kinds: Sequence[str], seed: int, *, whole: bool) -> None:
        self._known = known
        self._schedules = list(schedules)
        self._kinds = list(kinds)
        self._random = chance = random.Random(f"reading {seed}")
        self._page = chance.choice((1, 2, 3, 7))
        self._queries = self._drawn(whole=whole)
        self._since = chance.randrange(8)
        self._some = chance.sample(known.instances, min(len(known.instances), 4))

    def _drawn(self, *, whole: bool) -> list[dict[str, Any]]:
        known, chance = self._known, self._random
        start_us = known.ids.start_us
        times = [to_datetime(start_us - age * 1_000_000) for age in (0, 60, 90, 100)]
        singles: list[tuple[str, Any]] = [
            *(("kind", kind) for kind in self._kinds),
            *(("tag", tag) for tag in sorted(known.tags)),
            *(("state", state) for state in STATES),
            *(("before", moment) for moment in times),
            *(("after", moment) for moment in times),
            *(("uuid", id) for id in known.instances[-2:]),
            *(("parent", id) for id in list(known.children)[-3:]),
        ]
        pairs = [dict(pair) for pair in combinations(singles, 2) if pair[0][0] != pair[1][0]]
        pairs = (
            pairs if whole and len(pairs) < PAIRS else chance.sample(pairs, min(len(pairs), PAIRS * (1 + 2 * whole)))
        )
        alone = singles if whole else chance.sample(singles, min(len(singles), 6))
        return [{}, *({name: value} for name, value in alone), *pairs]

    async def of(self, side: Side) -> dict[str, Any]:
        """Read one store."""
        store, known = side.store, self._known
        found: dict[str, Any] = {}
        stored: dict[str, Record] = {}
        for start in range(0, len(known.instances), 100):
            ids = known.instances[start : start + 100]
            records = await store.get(ids)
            found |= dict(zip((f"record {id}" for id in ids), plain(records, side), strict=True))
            stored.update((record.id, record) for record in records if record is not None)
        for id in known.instances:
            found[f"logs {id}"] = plain(await store.logs(id), side)
        for id in self._some:
            found[f"log pages {id}"] = plain([line async for line in self._lines(side, id)], side)
        for criteria in self._queries:
            for order in ("asc", "desc") if len(criteria) < 2 else ("asc",):
                query = Query(limit=self._page, order=order, **criteria)
                found[f"lookup {criteria} {order}"] = [id async for id in self._ids(side, query)]
        found |= await self._counts(side) | await self._schedules_of(side) | await self._catalogue(side)
        if known.limited:
            found["limits"] = plain(await limits_of(store, self._page), side)
            found |= await keys_of(store, self._kinds, self._page)
            found |= plain(await limit_keys_of(store, known.instances), side)
        if known.flowing:
            found |= await flows_of(store, known.instances)
            found["wrong notes"] = wrong_notes(stored)
        found["nodes"] = plain(await store.nodes(), side)
        return found

    async def _lines(self, side: Side, id: str) -> AsyncIterator[Any]:
        cursor: str | None = None
        while True:
            page = await side.store.logs(id, cursor=cursor, limit=self._page)
            for line in page.lines:
                yield line
            if not page.lines:
                return
            cursor = page.cursor

    async def _ids(self, side: Side, query: Query) -> AsyncIterator[str]:
        while True:
            page = await side.store.lookup(query)
            if len(page.records) > query.limit:
                yield f"a page of {len(page.records)} with a limit of {query.limit}"
            for record in page.records:
                yield record.id
            if page.cursor is None:
                return
            query = query.at(page.cursor)

    async def _counts(self, side: Side) -> dict[str, Any]:
        health = await side.store.health()
        return {
            "counts": without_zeros(health.counts),
            "nodes in health": health.nodes,
            "undecodable": health.undecodable,
            "due": await side.store.due(),
            **{f"due {kind}": await side.store.due([kind]) for kind in self._kinds},
        }

    async def _schedules_of(self, side: Side) -> dict[str, Any]:
        store = side.store
        found = {"schedules": plain(await store.get_schedules(self._schedules), side)}
        for name in self._schedules:
            whole = await self._ledger(side, name, 1_000)
            found[f"fires {name}"] = plain(whole, side)
            found[f"pages of fires {name}"] = plain(await self._ledger(side, name, self._page), side)
            if whole:
                middle = whole[len(whole) // 2].nominal_us
                for bound in ("after_us", "before_us"):
                    some = await self._ledger(side, name, self._page, **{bound: middle})
                    found[f"fires {name} {bound}"] = plain(some, side)
        found["changes"] = await self._changes(side, 0)
        if side.revisions:
            since = side.revisions[self._since % len(side.revisions)]
            found[f"changes since {self._since}"] = await self._changes(side, since)
        return found

    async def _fires(self, side: Side, name: str, limit: int, **bounds: int) -> AsyncIterator[Any]:
        cursor: str | None = None
        while True:
            page = await side.store.fires(name, limit=limit, cursor=cursor, **bounds)
            for record in page.records:
                yield record
            cursor = page.cursor
            if cursor is None:
                return

    async def _ledger(self, side: Side, name: str, limit: int, **bounds: int) -> list[Any]:
        """All records of a ledger. *Choice*: the order of those with the same nominal time."""
        records = [record async for record in self._fires(side, name, limit, **bounds)]
        times = [record.nominal_us for record in records]
        records.sort(key=lambda record: (-record.nominal_us, record.outcome, record.instance, record.request))
        return ["not the latest first"] * (times != sorted(times, reverse=True)) + records

    async def _changes(self, side: Side, revision: int) -> list[Any]:
        rows: list[Any] = []
        while True:
            page = await side.store.changed_schedules(revision, limit=self._page)
            rows += ["reset"] * page.reset + list(page.rows)
            revision = page.revision
            if not page.more:
                again = await side.store.changed_schedules(revision)
                # *Choice*: a removal can come before a later change of the same schedule
                last = {row.name: row for row in rows if row != "reset"}
                rows = [row for row in rows if row == "reset" or not row.removed or row is last[row.name]]
                return [*plain(rows, side), *plain(list(again.rows), side)]

    async def _catalogue(self, side: Side) -> dict[str, Any]:
        store = side.store
        kinds = [*self._kinds, "other"]
        slot = self._known.ids.start_us // SLOT_US
        return {
            "published": await store.published_kinds(kinds),
            "descriptors": plain(await store.descriptors(kinds), side),
            "audit": plain(await store.audit(), side),
            "latest of audit": plain(await store.audit(2), side),
            "activity": plain(await store.activity(slot - MAX_SLOTS // 2, slot), side),
            "leader": plain(await (await side.election()).leader(), side),
        }


def without_zeros(counts: dict[str, dict[State, int]]) -> dict[str, dict[str, int]]:
    """The counts of kinds and states that have instances."""
    some = {kind: {str(State(state)): count for state, count in of.items() if count} for kind, of in counts.items()}
    return {kind: of for kind, of in some.items() if of}
