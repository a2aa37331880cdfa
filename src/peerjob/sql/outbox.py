"""`Outbox`: schedule runs in the transaction of your own data."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from peerjob.model.arguments import whole_number
from peerjob.model.clock import Clock, SystemClock
from peerjob.model.durations import Duration
from peerjob.model.errors import OptionError
from peerjob.model.ids import OutboxIdSource
from peerjob.model.job import Call
from peerjob.model.limits import MAX_SIZE
from peerjob.model.record import MAX_BATCH, NewInstance
from peerjob.node.body.registry import Registry
from peerjob.node.manager.call_encoder import CallEncoder
from peerjob.node.node import MAX_PAYLOAD

from .handle import ScheduledRow
from .inbox_rows import clean
from .rows import encode_row
from .sessions import Identity, OpenTransaction, run_async, transaction_of
from .statements import Statement, insertion
from .tables import DEFAULT_TABLE, Dialect, checked_dialect, checked_table, creation_lock, ddl, statements, table_error

R = TypeVar("R")

logger = logging.getLogger("peerjob.sql")

relays: dict[str, list[Identity]] = {}
"""Table → the databases of the relays that run in this process, one for each relay."""


class Outbox:
    """Schedules runs in the transaction of your own data; a relay makes an instance of each row after the commit.

    - `table`: the table of the rows, with a schema before it or none; a relay has the same one.
    - `max_payload`: most bytes of the arguments of a call, as in `Node`.

    A session is a Session, a Connection, or an asynchronous one of SQLAlchemy, or a connection of psycopg, sqlite3 or
    Django, on PostgreSQL or SQLite. A delay (`after=`) begins with the call. Raises OptionError.
    """

    def __init__(
        self, table: str = DEFAULT_TABLE, *, max_payload: int = MAX_PAYLOAD, clock: Clock | None = None
    ) -> None:
        self.table = checked_table(table)
        self._clock = clock or SystemClock()
        self._encoder = CallEncoder(
            clock=self._clock,
            registry=Registry(),
            max_payload=whole_number("max_payload", max_payload, 1, MAX_SIZE),
            timezone="UTC",
            local_objects=lambda: None,
        )
        self._encoder.ids = OutboxIdSource(self._clock)
        self._warned: set[Identity] = set()

    # -- rows --------------------------------------------------------------------------------------------------------

    def schedule(self, session: object, call: Call[R], /) -> ScheduledRow[R]:
        """Write a row in the open transaction of a session, with one INSERT; returns a handle with the id.

        Raises ArgumentError, OptionError, ScheduleError or PayloadTooLargeError for an invalid call, OptionError for a
        session that is closed, in autocommit or of another kind, and TableError for a missing table. An error of the
        database is the one of its library.
        """
        (row,) = self.schedule_many(session, [call])
        return row

    def schedule_many(self, session: object, calls: Iterable[Call[R]], /) -> list[ScheduledRow[R]]:
        """Like `schedule`, for many calls with one statement; each call is checked before it."""
        new, handles = self._made(calls)
        if new:
            self._write(transaction_of(session), new)
        return handles

    def schedule_in_autocommit(self, connection: object, call: Call[R], /) -> ScheduledRow[R]:
        """Like `schedule`, also outside of a transaction: the row is then committed at once."""
        new, handles = self._made([call])
        self._write(transaction_of(connection, autocommit=True), new)
        return handles[0]

    async def schedule_async(self, session: object, call: Call[R], /) -> ScheduledRow[R]:
        """Like `schedule`, for an AsyncSession or AsyncConnection of SQLAlchemy, or psycopg's AsyncConnection."""
        (row,) = await self.schedule_many_async(session, [call])
        return row

    async def schedule_many_async(self, session: object, calls: Iterable[Call[R]], /) -> list[ScheduledRow[R]]:
        """Like `schedule_many`, for the sessions of `schedule_async`."""
        new, handles = self._made(calls)
        if not new:
            return []
        seen: list[Dialect] = []

        def statement(dialect: Dialect, identity: Callable[[], Identity], is_two_phase: bool) -> Statement:
            seen.append(dialect)
            self._warn_of_another(identity)
            return self._insertion(dialect, new, notifies=not is_two_phase)

        with self._table_errors(seen):
            await run_async(session, statement)
        return handles

    def _made(self, calls: Iterable[Call[R]]) -> tuple[list[NewInstance], list[ScheduledRow[R]]]:
        if isinstance(calls, Call):
            raise OptionError("calls", "a call", "a list of calls; schedule() takes one")
        given: Sequence[Any] = list(calls)
        for call in given:
            if not isinstance(call, Call):
                raise OptionError("call", type(call).__name__, "a call of a job: job.call(…)")
        new = [self._encoder.new(call) for call in given]
        return new, [
            ScheduledRow(instance.id, call.job, instance.key) for instance, call in zip(new, given, strict=True)
        ]

    def _insertion(self, dialect: Dialect, new: Sequence[NewInstance], *, notifies: bool) -> Statement:
        now_us = self._clock.time_us()
        rows = [(instance.id, encode_row(instance, now_us)) for instance in new]
        return insertion(self.table, dialect, rows, notifies=notifies)

    def _write(self, transaction: OpenTransaction, new: Sequence[NewInstance]) -> None:
        connected = transaction.connected
        self._warn_of_another(transaction.identity)
        with self._table_errors([connected.dialect]):
            connected.execute(*self._insertion(connected.dialect, new, notifies=not transaction.is_two_phase))

    @contextlib.contextmanager
    def _table_errors(self, dialect: Sequence[Dialect]) -> Generator[None]:
        try:
            yield
        except Exception as error:
            told = table_error(error, self.table, dialect[0]) if dialect else None
            if told is None:
                raise
            raise told from error

    def _warn_of_another(self, identity: Callable[[], Identity]) -> None:
        """Warn once of a database that no relay of this process reads, if there is a relay."""
        read = relays.get(self.table)
        if not read:
            return
        written = identity()
        if written not in read and written not in self._warned:
            self._warned.add(written)
            logger.warning(
                "the outbox %s gets rows in %s, but the relay of this process reads %s: no relay may send these rows",
                self.table,
                written,
                ", ".join(sorted({str(identity) for identity in read})),
            )

    # -- tables ------------------------------------------------------------------------------------------------------

    def ddl(self, dialect: str) -> str:
        """The statements that make the tables on "postgresql" or "sqlite"."""
        return ddl(self.table, checked_dialect(dialect, "dialect"))

    def create_table(self, connection: object) -> None:
        """Make the tables of the outbox and of the inbox that are missing, in the transaction of a connection.

        For an AsyncSession or AsyncConnection: `await connection.run_sync(outbox.create_table)`.
        """
        connected = transaction_of(connection, autocommit=True).connected
        for statement in [*creation_lock(connected.dialect), *statements(self.table, connected.dialect)]:
            connected.execute(statement)

    def clean(self, connection: object, *, older: Duration = "30d", limit: int = MAX_BATCH) -> int:
        """Remove up to `limit` instances from the inbox that wrote nothing for so long; returns how many.

        It does not look at the store: `older` must be longer than an instance can wait and run. A relay of the
        database does this with the states of the instances, after a day.
        """
        most = whole_number("limit", limit, 1, MAX_SIZE)
        return clean(transaction_of(connection, autocommit=True).connected, self.table, older, most)
