"""Assertions about a test cluster; each failure shows the seed and the last events."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from peerjob.handles.instance import Instance
from peerjob.model.errors import OptionError
from peerjob.model.firing import FireOutcome, FireRecord
from peerjob.model.job import Job
from peerjob.model.record import Record
from peerjob.model.state import State
from peerjob.store.kv.format.views import to_record

from .journal import BodyRun, EventJournal, TraceEvent, describe


class Assertions:
    """The part of a test cluster that checks events. It calls no node, so it can be used at any time."""

    seed: int
    _journal: EventJournal
    _trace_mark = "the last events:"

    @property
    def trace(self) -> list[TraceEvent]:
        """All events so far, in order: faults, changes of instances, and fires."""
        return self._journal.trace()

    def fires(self, schedule: Job[..., Any, Any] | str) -> list[FireRecord]:
        """Return the outcome of each nominal time of a schedule, in order, trimmed ones included.

        A job stands for its own schedule.
        """
        return self._journal.fires(_schedule_of(schedule))

    def assert_fired(self, schedule: Job[..., Any, Any] | str, *, times: int | None = None) -> None:
        """Raise AssertionError unless a schedule made instances for `times` nominal times (None: for at least one).

        Missed, skipped, coalesced, paused and backfilled times do not count. An unknown schedule fails even with
        `times=0`.
        """
        name = _schedule_of(schedule)
        records = self._journal.fires(name)
        known = self._journal.schedules()
        if name not in known:
            self._fail(f"no schedule is called {name!r}; there are {', '.join(map(repr, known)) or 'none'}")
        fired = sum(record.outcome is FireOutcome.FIRED for record in records)
        if fired == times or (times is None and fired):
            return
        others = {outcome: sum(record.outcome is outcome for record in records) for outcome in FireOutcome}
        counts = ", ".join(f"{count} {outcome}" for outcome, count in others.items() if count) or "no record"
        expected = "at least 1 fire" if times is None else f"{times} fire(s)"
        self._fail(f"schedule {name!r}: expected {expected}, got {counts}")

    def assert_completed(self, instance: Instance[Any] | str, *, attempts: int | None = None) -> None:
        """Raise AssertionError unless an instance is Completed, with `attempts` attempts if given."""
        self.assert_state(instance, State.COMPLETED, attempts=attempts)

    def assert_state(self, instance: Instance[Any] | str, state: State, *, attempts: int | None = None) -> None:
        """Raise AssertionError unless an instance is in a state, with `attempts` attempts if given."""
        id = _id_of(instance)
        if not isinstance(cast(Any, state), State):
            raise OptionError("state", state, "a State, such as State.COMPLETED")
        row = self._journal.row(id)
        if row is None:
            self._fail(f"instance {id}: expected {state!s}, but no such instance was ever stored")
        if not row.state & state:
            self._fail(f"instance {id}: expected {state!s}, got {describe(id, row)}")
        if attempts is not None and row.attempts != attempts:
            self._fail(f"instance {id}: expected {attempts} attempt(s), got {describe(id, row)}")

    def instances(self) -> dict[str, Record]:
        """Return the last record of each instance by id, removed ones included.

        The records have no arguments, results and progress.
        """
        return {id: to_record(id, row, b"", None, None) for id, row in self._journal.rows().items()}

    def runs(self, of: Job[..., Any, Any] | Instance[Any] | str | None = None) -> list[BodyRun]:
        """Return the runs of bodies by start: of a job, a kind, an instance or an id, or (None) all."""
        if of is None:
            return list(self._journal.bodies)
        wanted = of.kind if isinstance(of, Job) else _id_of(of)
        return [run for run in self._journal.bodies if wanted in (run.kind, run.instance)]

    def assert_never_concurrent(self, of: Job[..., Any, Any] | Instance[Any] | str) -> None:
        """Raise AssertionError if two bodies of a job, a kind, an instance or an id ran at the same time.

        A body on a paused node runs until it is told to end. The kill of a node ends its bodies. If no body ran, the
        assertion fails too.
        """
        runs = self.runs(of)
        if not runs:
            self._fail(f"no body of {of!r} ran; there were bodies of {', '.join(self._kinds()) or 'no kind'}")
        latest: BodyRun | None = None
        for run in runs:
            if latest is not None and (latest.ended is None or latest.ended > run.began):
                self._fail(f"two bodies ran at the same time: {latest}; and {run}")
            latest = run

    def _kinds(self) -> list[str]:
        return sorted({run.kind for run in self._journal.bodies})

    def _fail(self, text: str) -> NoReturn:
        raise AssertionError(f"{text}\n{self._trace_text()}")

    def _trace_text(self) -> str:
        return f"seed {self.seed}, {self._trace_mark}\n{self._journal.tail()}"


def _schedule_of(given: Job[..., Any, Any] | str) -> str:
    name = given.schedule_name if isinstance(given, Job) else cast(Any, given)
    if not isinstance(name, str):
        raise OptionError("schedule", given, "a Job, or the name of a schedule")
    return name


def _id_of(given: Instance[Any] | str) -> str:
    id = given.id if isinstance(given, Instance) else cast(Any, given)
    if not isinstance(id, str):
        raise OptionError("instance", given, "an Instance, or its id")
    return id
