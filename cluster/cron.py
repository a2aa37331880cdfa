"""Fires the schedules while this node leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence, Set

import msgspec

from peerjob.model.child_tasks import end
from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError, ScheduleError, StoreError, StoreRefusedError
from peerjob.model.firing import Fire, FireOutcome, FireRecord, FireStatus, Term
from peerjob.model.ids import IdSource
from peerjob.model.record import NewInstance
from peerjob.store.base import Store

from .election import Election
from .fires import fire_of
from .misfire import next_step
from .role import BackgroundRole, wait_set
from .timetable import Timetable, TimetableEntry
from .unserved_kinds import UnservedKinds

logger = logging.getLogger("peerjob.cluster")

POLL = 1.0
"""Seconds between two reads of changed schedules, unless a hint of the store leads to an earlier read."""
MIN_WAIT = 0.001
"""Least seconds that the leader waits between two checks of the timetable."""
PAGE = 200
"""Most schedules in one read, so that a read takes only a few milliseconds."""
BATCH = 50
"""Most fires in one call of `Store.fire`, so that planning a call takes only a few milliseconds."""
MAX_CALLS = 4
"""Most calls of `Store.fire` that are in flight at a time."""
MAX_LATE_CALLS = 2
"""Most calls for late schedules at a time. The other calls are kept for schedules that are due now."""
PLANNING_TIME = 0.005
"""Seconds of planning after which the event loop runs other tasks."""
BACKOFF_US = 1_000_000
"""Microseconds after an error of the store before the node tries a fire again."""
LONG_BACKOFF_US = 60_000_000
"""Microseconds before the node repeats a fire that failed in a call without other fires."""


class CronRole(BackgroundRole):
    """Keeps all schedules in memory while this node leads, and fires each nominal time when it is due.

    The store alone guarantees that a time is fired at most once. `now_us` is the time of the store's clock. `on_made`
    is called with each instance that a fire made, `on_fired` with each recorded fire.
    """

    name = "cron"

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        election: Election,
        node: str,
        ids: IdSource,
        now_us: Callable[[], int] | None = None,
        on_made: Callable[[NewInstance], None] = lambda _: None,
        on_fired: Callable[[Fire, FireRecord], None] = lambda _fire, _record: None,
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._election = election
        self._node = node
        self._ids = ids
        self._now_us = now_us or clock.time_us
        self._on_made = on_made
        self._on_fired = on_fired
        self._unserved_kinds = UnservedKinds(clock, store)
        self._timetable = Timetable()
        self._revision = 0
        self._read_next = 0.0
        self._wake = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._late_calls: set[asyncio.Task[None]] = set()
        self._logged_error = ""
        """The last logged error of the store. A repeated error is not logged again."""
        self._logged_unusable: dict[str, int] = {}
        """Name of an unusable schedule → revision, so that each unusable revision is logged once."""

    @property
    def schedules(self) -> int:
        """The number of schedules in memory; 0 while another node leads."""
        return len(self._timetable)

    def changed(self) -> None:
        """Read the changed schedules now."""
        self._read_next = 0.0
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._lead(await self._election.acting())

    async def _lead(self, term: Term) -> None:
        self._timetable, self._revision, self._read_next = Timetable(), 0, 0.0
        try:
            while self._election.term == term:
                self._wake.clear()
                if self.clock.elapsed() >= self._read_next:
                    await self._read_changes()
                self._send_due(term)
                await self._wait()
        finally:
            await end([*self._calls, *self._late_calls])
            self._timetable = Timetable()

    async def _read_changes(self) -> None:
        self._read_next = self.clock.elapsed() + POLL
        while True:
            page = await self._store.changed_schedules(self._revision, limit=PAGE)
            if page.reset:
                self._timetable = Timetable()
            for row in page.rows:
                self._timetable.put(row)
            self._revision = page.revision
            if not page.more:
                self.last_error = None
                return
            await asyncio.sleep(0)  # the store in memory answers without a wait

    def _send_due(self, term: Term) -> None:
        self._timetable.look(self._now_us())
        while len(self._calls) + len(self._late_calls) < MAX_CALLS and (due := self._timetable.take_timely(BATCH)):
            self._call(due, term, self._calls)
        while (
            len(self._calls) + len(self._late_calls) < MAX_CALLS
            and len(self._late_calls) < MAX_LATE_CALLS
            and (due := self._timetable.take_late(BATCH))
        ):
            self._call(due, term, self._late_calls)

    def _call(self, due: Sequence[TimetableEntry], term: Term, calls: set[asyncio.Task[None]]) -> None:
        call = asyncio.get_running_loop().create_task(self._account(self._timetable, due, term), name="peerjob-fire")
        calls.add(call)

        def ended(call: asyncio.Task[None]) -> None:
            calls.discard(call)
            self._wake.set()

        call.add_done_callback(ended)

    async def _wait(self) -> None:
        """Wait until a schedule is due, a call ends, or the next read is due."""
        seconds = self._read_next - self.clock.elapsed()
        next_us = self._timetable.next_due_us()
        if next_us is not None:
            seconds = min(seconds, (next_us - self._now_us()) / 1_000_000)
        await wait_set(self._wake, max(MIN_WAIT, seconds))

    # -- one call --------------------------------------------------------------------------------------------------

    async def _account(self, timetable: Timetable, due: Sequence[TimetableEntry], term: Term) -> None:
        """Plan and send the next fire of each due schedule."""
        planned = await self._plan(timetable, due)
        for entry in [entry for entry in planned if entry.alone]:
            await self._send(timetable, {entry: planned.pop(entry)}, term)
        if planned:
            await self._send(timetable, planned, term)

    async def _plan(self, timetable: Timetable, due: Sequence[TimetableEntry]) -> dict[TimetableEntry, Fire]:
        planned: dict[TimetableEntry, Fire] = {}
        began = self.clock.elapsed()
        for entry, id in zip(due, self._ids.take(len(due)), strict=True):
            if self.clock.elapsed() - began > PLANNING_TIME:
                await asyncio.sleep(0)
                began = self.clock.elapsed()
            try:
                fire = self._fire(entry, id)
            except (DecodeError, ScheduleError) as error:
                self._report(entry, error)
                continue
            if fire is None:
                timetable.enter(entry)
            else:
                planned[entry] = fire
        return planned

    async def _send(self, timetable: Timetable, planned: dict[TimetableEntry, Fire], term: Term) -> None:
        """Send the fires in one call. After the call, even after an error, each schedule is in the timetable again."""
        open, wait_us = set(planned), BACKOFF_US
        try:
            await self._send_fires(timetable, planned, open, term)
        except StoreRefusedError as error:
            if len(planned) == 1:
                wait_us = LONG_BACKOFF_US
                for entry in planned:
                    self._report(entry, error)
            for entry in planned:
                entry.alone = True
        except StoreError as error:
            if repr(error) != self._logged_error:
                logger.warning("cron: %d fire(s) wait for the store: %s", len(planned), error)
            self._logged_error = repr(error)
        except Exception:
            names = ", ".join(repr(entry.row.name) for entry in planned)
            logger.exception("cron: unexpected error while firing %s", names)
            if len(planned) == 1:
                wait_us = LONG_BACKOFF_US
            for entry in planned:
                entry.alone = True
        finally:
            for entry in open:
                timetable.enter(entry, self._now_us() + wait_us)

    def _fire(self, entry: TimetableEntry, id: str) -> Fire | None:
        if entry.next_us is None:
            return None
        step = next_step(entry.definition, entry.recurrence, entry.next_us, self._now_us())
        if step is None:
            return None
        return fire_of(
            step,
            entry.definition,
            schedule=entry.row.name,
            revision=entry.row.revision,
            id=id,
            clock=self.clock,
        )

    async def _skip_unserved(self, fires: list[Fire]) -> list[Fire]:
        """The fires. A fire becomes skipped if no live node runs its kind and an instance of the kind already waits."""
        kinds = {fire.instance.kind for fire in fires if fire.instance is not None}
        unserved = await self._unserved_kinds.without(kinds) if kinds else kinds
        return [_skipped(fire, unserved) for fire in fires] if unserved else fires

    def _report(self, entry: TimetableEntry, error: Exception) -> None:
        if self._logged_unusable.get(entry.row.name) != entry.row.revision:
            self._logged_unusable[entry.row.name] = entry.row.revision
            logger.error("schedule %r is unusable and does not fire: %s", entry.row.name, error)

    async def _send_fires(
        self, timetable: Timetable, planned: dict[TimetableEntry, Fire], open: set[TimetableEntry], term: Term
    ) -> None:
        """Send the fires. Remove from `open` each schedule that was put back into the timetable."""
        fires = await self._skip_unserved(list(planned.values()))
        if self._election.term != term:
            return
        answers = await self._store.fire(fires, term=term, node=self._node)
        self._logged_error = ""
        stale: dict[TimetableEntry, Fire] = {}
        for entry, fire, answer in zip(planned, fires, answers, strict=True):
            if answer.status is FireStatus.DONE:
                open.remove(entry)
                entry.next_us, entry.alone = fire.next_us, False
                timetable.enter(entry)
                if answer.record is not None:
                    self._on_fired(fire, answer.record)
                    if fire.instance is not None and answer.record.instance == fire.request:
                        self._on_made(fire.instance)
                if fire.outcome is FireOutcome.MISSED:
                    logger.warning("schedule %r missed %d fire(s): %s", entry.row.name, fire.count, fire.reason)
            elif answer.status is FireStatus.DEPOSED:
                self._election.depose(term)
            else:
                stale[entry] = fire
        if stale:
            await self._read_again(timetable, stale)

    async def _read_again(self, timetable: Timetable, stale: dict[TimetableEntry, Fire]) -> None:
        rows = await self._store.get_schedules([entry.row.name for entry in stale])
        for (entry, fire), row in zip(stale.items(), rows, strict=True):
            if row is None:
                timetable.drop(entry)
            else:
                # a fire that matches the current row, and that the store still calls stale, waits before the next try
                same = row.revision == fire.revision and row.next_us == fire.nominal_us
                timetable.put(row, self._now_us() + BACKOFF_US if same else 0)


def _skipped(fire: Fire, kinds: Set[str]) -> Fire:
    """The fire as skipped, without an instance, if the kind of its instance is in `kinds`; otherwise the same fire."""
    if fire.instance is None or fire.instance.kind not in kinds:
        return fire
    reason = f"no node can run {fire.instance.kind}"
    return msgspec.structs.replace(fire, outcome=FireOutcome.SKIPPED, instance=None, reason=reason)
