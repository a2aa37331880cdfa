"""`OutboxRelay`: makes an instance of each committed row of an outbox."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Callable, Coroutine, Sequence, Sized
from concurrent.futures import Executor
from typing import Any, TypeVar, cast

from peerjob.model.child_tasks import end
from peerjob.model.errors import (
    DecodeError,
    RowRefusedError,
    StoreCredentialsError,
    StoreError,
    StoreFullError,
    StorePermissionError,
)
from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, NewInstance
from peerjob.node.work.outbox import OutboxState, RelayNode

from .databases import DaemonThread, Database, EngineDatabase, engine_at, outlasted
from .inbox_rows import FIRST, old_instances, remove_instances
from .listening import LAST_WAIT, Listener
from .outbox import relays
from .relay_rows import TakenRow, delete, give_back, is_empty, keep_aside, old_rows, refusals, state_of, take
from .rows import decode_row, is_row_id
from .statements import Connected
from .tables import DEFAULT_TABLE, bad_table, channel_of, checked_table, is_conflict, table_error

T = TypeVar("T")

logger = logging.getLogger("peerjob.sql")

PERIOD = 1.0
"""Seconds between two looks at the table without a notification."""
CONFLICT_PAUSE = 0.1
"""Most seconds until the next pass after another transaction has refused a pass."""
KNOWN_FOR = 1.0
"""Seconds for which an answer of the store shows that it can be reached."""
SEND_LIMIT = 300.0
"""Most seconds between the take of a row and its enqueue. A paused process takes the rows anew."""
ASIDE_PERIOD = 60.0
"""Seconds between two searches for rows that were taken too long ago."""
CLEAN_PERIOD = 3_600.0
"""About the seconds between two searches for instances of the inbox that are over."""
KEPT = 86_400.0
"""Seconds for which the inbox keeps the rows of an instance that is over."""
REFUSALS = (StoreFullError, StorePermissionError, StoreCredentialsError)
"""What a store raises before it writes anything of a call."""
OLD = (
    "it was taken about a day ago, or in the future by a wrong clock: its instance may have run, and the store may "
    "have forgotten its id"
)


class OutboxRelay:
    """Takes rows of an outbox and enqueues them under their ids, while a node runs: `Node(outbox=OutboxRelay(engine))`.

    - `engine`: an Engine or AsyncEngine of SQLAlchemy, on PostgreSQL or SQLite.
    - `table`: the table of the `Outbox`.

    Several nodes can have a relay of one table. On PostgreSQL, a notification wakes them at the commit of a row. On
    SQLite, they look each second. A row that cannot be sent goes to the table with the suffix `_bad`.

    Raises OptionError.
    """

    def __init__(self, engine: Any, table: str = DEFAULT_TABLE) -> None:
        self._database: Database = engine if isinstance(engine, Database) else EngineDatabase(engine)
        self.table = checked_table(table)

    @classmethod
    def at(cls, url: str, table: str = DEFAULT_TABLE) -> OutboxRelay:
        """The relay of the database with this URL of SQLAlchemy; raises OptionError."""
        return cls(EngineDatabase(engine_at(url), is_own=True), table)

    async def run(self, node: RelayNode) -> None:
        """Send rows until a cancellation; a node calls it."""
        reading = relays.setdefault(self.table, [])
        identity = self._database.identity
        reading.append(identity)
        thread = DaemonThread("peerjob-outbox")
        aside = _Aside(self._database, self.table)
        try:
            node.look_aside(aside.refusals)
            await _Passes(node, self._database, self.table, thread).run()
        finally:
            reading.remove(identity)
            thread.shutdown()
            await aside.close()

    async def state(self) -> OutboxState:
        """Count the rows; raises TableError, OptionError for a missing file, or an error of the database."""
        self._database.check_exists()
        return await checked(self._database, self.table, lambda connected: state_of(connected, self.table))

    async def close(self) -> None:
        """End the connections of `state`, if `at` has made the relay; the end of `run` does so, too."""
        await self._database.close()


async def checked(
    database: Database,
    table: str,
    work: Callable[[Connected], T],
    thread: Executor | None = None,
    *,
    is_one: bool = False,
) -> T:
    """Run work in a transaction, or one statement; an error that tells of a missing table becomes a TableError."""
    try:
        return await (database.run_one if is_one else database.run)(work, thread)
    except Exception as error:
        told = table_error(error, table, database.dialect)
        if told is None:
            raise
        raise told from error


class _Aside:
    """Reads the table of bad rows, beside the passes: while this table is locked, the passes go on."""

    def __init__(self, database: Database, table: str) -> None:
        self._database = database.beside()
        self._table = table
        self._thread: DaemonThread | None = None
        self._reading: asyncio.Task[dict[str, str]] | None = None

    async def refusals(self, ids: Sequence[str]) -> dict[str, str]:
        """See `peerjob.node.work.outbox.Refusals`; one call at a time."""
        if self._thread is None:
            self._thread = DaemonThread("peerjob-outbox-aside")
        read = functools.partial(refusals, table=self._table, ids=ids)
        self._reading = asyncio.create_task(checked(self._database, self._table, read, self._thread, is_one=True))
        return await self._reading

    async def close(self) -> None:
        """End the thread and the connections, after the end of a call."""
        if self._reading is not None:
            await end([self._reading])  # a call of a thread has some seconds to end
        if self._thread is not None:
            self._thread.shutdown()
            await self._database.close()


class _Passes:
    """The passes of a relay on one node: each takes rows, enqueues them, and deletes them with the next take."""

    def __init__(self, node: RelayNode, database: Database, table: str, thread: Executor) -> None:
        self._node = node
        self._database = database
        self._table = table
        self._thread = thread
        self._wake = asyncio.Event()
        self._listener: Listener | None = None
        self._can_listen = True
        self._is_ending = False
        self._answered_at = -math.inf
        self._sent: list[str] = []
        self._refused: dict[Any, str] = {}
        self._doubled: list[RowRefusedError] = []
        self._aside_at = self._clean_at = 0.0
        self._clean_after: str | None = None
        """The last instance that the present search of the inbox has seen; None between two searches."""
        self._last_error = self._refusal = ""
        self._most = MAX_BATCH

    async def run(self) -> None:
        is_woken = False
        try:
            while True:
                self._wake.clear()
                try:
                    is_full = await self._pass(is_woken)
                    self._last_error = ""
                except REFUSALS as error:
                    self._report_refusal(error)
                    is_full = False
                except StoreError:
                    raise
                except Exception as error:  # noqa: BLE001  # each library has its own errors of a database that is away
                    is_full = await self._is_over_conflict(error)
                    if not is_full:
                        self._report(error)
                is_woken = False
                if not is_full:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PERIOD):
                            is_woken = await self._wake.wait()
        finally:
            await self._forget_listener()
            await self._database.close()

    async def _is_over_conflict(self, error: Exception) -> bool:
        """Whether another transaction is the reason for an error; then pause before the repeat."""
        # a database whose default is SERIALIZABLE refuses statements, too
        if not is_conflict(error):
            return False
        await asyncio.sleep(self._node.clock.random.uniform(0, CONFLICT_PAUSE))
        return True

    async def _give_back(self, rows: Sequence[TakenRow]) -> None:
        """Give rows back; a row that stays taken counts as sent."""
        while True:
            try:
                return await self._run(lambda connected: give_back(connected, self._table, rows))
            except Exception as error:
                if not await self._is_over_conflict(error):
                    raise

    def _report(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self._last_error:
            logger.warning("the relay of the outbox %s tries again each second: %s", self._table, text)
        self._last_error = text

    def _report_refusal(self, error: StoreError) -> None:
        if str(error) != self._refusal:
            logger.error("the rows of the outbox %s wait, because the store takes nothing: %s", self._table, error)
        self._refusal = str(error)
        self._most = 1  # most rows need no change until the store takes one

    async def _pass(self, is_woken: bool) -> bool:
        """Take rows and send them; whether more rows may be waiting. A notification may have woken the relay."""
        await self._listen()
        await self._look_aside()
        is_known = self._node.clock.elapsed() - self._answered_at <= KNOWN_FOR
        # a take locks the file for the writers of the program, and a look does not
        is_idle = self._database.dialect == "sqlite" and not (self._sent or self._refused)
        if is_idle or not (is_known or is_woken):
            is_over = await self._run(self._finish_and_look, is_one=not (self._sent or self._refused))
            self._ended()
            if is_over:
                return False
        if not is_known:
            # a row that is taken while the store is away would count as sent, and could not be sent after a day
            await self._node.reach()
            self._answered_at = self._node.clock.elapsed()
        return await self._to_its_end(self._take_and_send())

    async def _to_its_end(self, sending: Coroutine[Any, Any, bool]) -> bool:
        """Give a call some seconds after a cancellation, so that a node that stops leaves no row that it has sent."""
        task = asyncio.get_running_loop().create_task(sending)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            self._is_ending = True
            try:
                await asyncio.wait([task], timeout=LAST_WAIT)
            finally:
                await end([task])
            raise
        return task.result()

    async def _take_and_send(self) -> bool:
        """Send the next rows; whether more rows may be waiting."""
        taken_at = self._node.clock.elapsed()
        rows = await self._run(self._take, is_one=not (self._sent or self._refused))
        is_full = len(rows) == self._most or sum(_size(row.call) for row in rows) >= MAX_BATCH_BYTES
        self._ended()
        instances = [instance for instance in map(self._decoded, rows) if instance is not None]
        if instances:
            # a process that was paused meanwhile must not send: the store could have forgotten the ids
            if self._node.clock.elapsed() - taken_at > SEND_LIMIT:
                await self._give_back(rows)
                return True
            try:
                async with asyncio.timeout(SEND_LIMIT):
                    errors = await self._node.send(instances)
            except REFUSALS as refusal:
                if not refusal.is_unsure:
                    await self._give_back(rows)
                raise
            self._answered_at = self._node.clock.elapsed()
            self._most = min(2 * self._most, MAX_BATCH)
            if self._most == MAX_BATCH:
                self._refusal = ""
            for instance, error in zip(instances, errors, strict=True):
                if error is None or isinstance(error, RowRefusedError):
                    self._sent.append(instance.id)
                    self._doubled += [] if error is None else [error]
                else:
                    self._refuse(instance.id, error)
        if (not is_full or self._is_ending) and (self._sent or self._refused):
            await self._run(self._finish, is_one=not self._refused)
            self._ended()
        return is_full

    def _ended(self) -> None:
        """The database has answered, and has the end of the last pass."""
        self._node.remember(self._doubled)  # not before, as another relay could still send the row
        self._sent, self._refused, self._doubled = [], {}, []

    def _finish_and_look(self, connected: Connected) -> bool:
        """Whether no row is left."""
        self._finish(connected)
        return is_empty(connected, self._table)

    def _finish(self, connected: Connected) -> None:
        delete(connected, self._table, self._sent)
        keep_aside(connected, self._table, self._refused)

    def _take(self, connected: Connected) -> list[TakenRow]:
        """Delete the rows of the last pass and take others, in one transaction."""
        self._finish(connected)
        return take(connected, self._table, self._most, MAX_BATCH_BYTES)

    def _decoded(self, row: TakenRow) -> NewInstance | None:
        try:
            new = decode_row(row.id, row.call)
            if not is_row_id(row.id):
                raise DecodeError(f"the id {row.id!r} was not made by an outbox")
        except DecodeError as error:
            self._refuse(row.id, error)
            return None
        return new

    def _refuse(self, id: Any, error: object) -> None:
        self._refused[id] = str(error)
        logger.error(
            "row %s of the outbox %s cannot be sent, and is kept in %s: %s",
            id,
            self._table,
            bad_table(self._table),
            error,
        )

    async def _look_aside(self) -> None:
        now = self._node.clock.elapsed()
        if now >= self._aside_at:
            old = await self._run(lambda connected: old_rows(connected, self._table, MAX_BATCH), is_one=True)
            known = await self._node.states(list(filter(is_row_id, old))) if old else {}
            for id in old:
                if id in known:
                    self._sent.append(id)
                else:
                    self._refuse(id, OLD)
            self._aside_at = now + ASIDE_PERIOD
        if now >= self._clean_at:
            self._clean_at = now + CLEAN_PERIOD * self._node.clock.random.uniform(0.5, 1.5)
            self._clean_after = FIRST
        if self._clean_after is not None:
            # rows that wait must not wait for all pages
            after, self._clean_after = self._clean_after, None
            self._clean_after = await self._clean(after)

    async def _clean(self, after: str) -> str | None:
        """Remove the rows of the next instances of the inbox that are over for a day; returns where to go on."""
        ids = await self._run(lambda connected: old_instances(connected, self._table, KEPT, after, MAX_BATCH))
        states = await self._node.states(ids) if ids else {}
        over = [id for id in ids if id not in states or states[id].is_final]
        if over:
            await self._run(lambda connected: remove_instances(connected, self._table, over))
        return ids[-1] if len(ids) == MAX_BATCH else None

    async def _listen(self) -> None:
        if self._listener is not None and self._listener.is_broken:
            await self._forget_listener()
        if self._listener is None and self._can_listen:
            opening = asyncio.get_running_loop().create_task(
                self._database.listen(channel_of(self._table), self._wake.set, self._thread)
            )
            try:
                self._listener = await outlasted(opening)
            except asyncio.CancelledError:
                if opening.done() and not opening.cancelled() and not opening.exception():
                    self._listener = opening.result()
                raise
            self._can_listen = self._listener is not None

    async def _forget_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()

    async def _run(self, work: Callable[[Connected], T], *, is_one: bool = False) -> T:
        return await checked(self._database, self._table, work, self._thread, is_one=is_one)


def _size(call: Any) -> int:
    """The bytes of a row's call; a column of SQLite can have a value of another type, which has none here."""
    return len(cast(Sized, call)) if isinstance(call, bytes | str | memoryview) else 0
