"""What a test says of a cluster in the words of its users; each failure tells the seed and the last events."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from peerjob.handles.instance import Instance
from peerjob.model.errors import OptionError
from peerjob.model.firing import FireOutcome, FireRecord
from peerjob.model.job import Job
from peerjob.model.record import Record
from peerjob.model.state import State
from peerjob.store.kv.rows import to_record

from .journal import BodyRun, EventJournal, TraceEvent, words_of


class Assertions:
    """The part of a test cluster that looks at what has happened. It asks no node, so it may be asked at any moment."""

    seed: int
    _journal: EventJournal
    _told_mark = "the last events:"

    @property
    def trace(self) -> list[TraceEvent]:
        """All that has happened so far: what was done to nodes, changes of instances, and fires, in order."""
        return self._journal.trace()

    def fires(self, schedule: Job[..., Any, Any] | str) -> list[FireRecord]:
        """What became of each nominal time of a schedule, or of a job's own schedule, in order.

        Those that the store's ledger has forgotten are told, too.
        """
        return self._journal.fires(_schedule_of(schedule))

    def assert_fired(self, schedule: Job[..., Any, Any] | str, *, times: int | None = None) -> None:
        """Raise AssertionError unless a schedule made an instance for so many nominal times (None: for one at least).

        A time that was missed, skipped, coalesced, paused or backfilled is no fire. A schedule that there never was
        fails, with `times=0` too.
        """
        name = _schedule_of(schedule)
        records = self._journal.fires(name)
        known = self._journal.schedules()
        if name not in known:
            self._fail(f"no schedule is called {name!r}; there are {', '.join(map(repr, known)) or 'none'}")
        fired = sum(record.outcome is FireOutcome.FIRED for record in records)
        if fired == times or (times is None and fired):
            return
        others = {outcome: sum(one.outcome is outcome for one in records) for outcome in FireOutcome}
        told = ", ".join(f"{count} {outcome}" for outcome, count in others.items() if count) or "no record"
        expected = "at least 1 fire" if times is None else f"{times} fire(s)"
        self._fail(f"schedule {name!r}: expected {expected}, got {told}")

    def assert_completed(self, instance: Instance[Any] | str, *, attempts: int | None = None) -> None:
        """Raise AssertionError unless an instance is Completed, after so many attempts if that is given."""
        self.assert_state(instance, State.COMPLETED, attempts=attempts)

    def assert_state(self, instance: Instance[Any] | str, state: State, *, attempts: int | None = None) -> None:
        """Raise AssertionError unless an instance is in a state, after so many attempts if that is given."""
        id = _id_of(instance)
        if not isinstance(cast(Any, state), State):
            raise OptionError("state", state, "a State, such as State.COMPLETED")
        row = self._journal.row(id)
        if row is None:
            self._fail(f"instance {id}: expected {state!s}, but no such instance was ever stored")
        if not row.state & state:
            self._fail(f"instance {id}: expected {state!s}, got {words_of(id, row)}")
        if attempts is not None and row.attempts != attempts:
            self._fail(f"instance {id}: expected {attempts} attempt(s), got {words_of(id, row)}")

    def instances(self) -> dict[str, Record]:
        """Each instance that was ever stored, by id, as it was written last: also those that were removed since.

        Arguments, results and progress are not told.
        """
        return {id: to_record(id, row, b"", None, None) for id, row in self._journal.rows().items()}

    def runs(self, of: Job[..., Any, Any] | Instance[Any] | str | None = None) -> list[BodyRun]:
        """Each run of a body, of a job or an instance (or of a kind or an id), or of all; the first to begin first."""
        if of is None:
            return list(self._journal.bodies)
        wanted = of.kind if isinstance(of, Job) else _id_of(of)
        return [run for run in self._journal.bodies if wanted in (run.kind, run.instance)]

    def assert_never_concurrent(self, of: Job[..., Any, Any] | Instance[Any] | str) -> None:
        """Raise AssertionError if two bodies of a job or an instance (or of a kind or an id) ran at the same time.

        A body on a paused node runs until it is told to end. One on a killed node has ended with that. Raises
        AssertionError also if no body of it ever ran.
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
        raise AssertionError(f"{text}\n{self._told()}")

    def _told(self) -> str:
        return f"seed {self.seed}, {self._told_mark}\n{self._journal.tail()}"


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
