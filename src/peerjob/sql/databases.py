"""The database of a relay or of an inbox: runs work in a transaction, on a thread or on an asynchronous engine."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar, cast

from peerjob.model.errors import OptionError
from peerjob.model.extras import needs_extra

from .listening import LAST_WAIT, Listener, listener_of
from .sessions import Identity, identity_of_url
from .statements import Connected, SqlAlchemyConnected
from .tables import Dialect, checked_dialect

T = TypeVar("T")

_URLS = "a URL of SQLAlchemy, such as postgresql://user@host/app or sqlite:////path/app.db, whose driver is installed"


class DaemonThread(Executor):
    """One thread that runs calls in turn. A call to a database that does not answer keeps no process from its end."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put((future, functools.partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after the calls that it has; it never waits."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    answer = call()
                except BaseException as error:  # noqa: BLE001  # the caller gets each error
                    future.set_exception(error)
                else:
                    future.set_result(answer)
                    del answer
            del item, future, call


class Database(ABC):
    """A database, as a relay uses it."""

    dialect: Dialect
    identity: Identity

    def check_exists(self) -> None:
        """Raise OptionError for a file that does not exist: a connection would make it."""
        return

    def beside(self) -> Database:
        """The database for calls of another thread."""
        return self

    @abstractmethod
    async def run(self, work: Callable[[Connected], T], executor: Executor | None = None) -> T:
        """Run work in a transaction, and return its answer after the commit. A cancellation waits for its end."""

    async def run_one(self, work: Callable[[Connected], T], executor: Executor | None = None) -> T:
        """Like `run`, for work that is one statement: a database can save the round trips of a transaction."""
        return await self.run(work, executor)

    @abstractmethod
    async def listen(self, channel: str, wake: Callable[[], None], executor: Executor | None) -> Listener | None:
        """Call `wake` at each notification of a channel; None if the driver cannot."""

    async def close(self) -> None:
        """Release what the calls above left open; they can open it again."""
        return


async def in_thread(call: Callable[[], T], executor: Executor | None = None) -> T:
    """Run a call in a thread with the context variables of the caller; a cancellation waits as `outlasted` does.

    A call that waits for a free thread at the cancellation never begins.
    """
    copied = contextvars.copy_context()
    begun, abandoned = threading.Event(), threading.Event()

    def run() -> T:
        begun.set()
        if abandoned.is_set():
            return cast("T", None)  # no caller waits for it
        return copied.run(call)

    def has_begun() -> bool:
        abandoned.set()
        return begun.is_set()

    return await outlasted(asyncio.get_running_loop().run_in_executor(executor, run), has_begun)


async def close_in_thread(close: Callable[[], object], executor: Executor | None) -> None:
    """Close something in a thread. If the caller waits no longer, the thread still closes it."""
    if executor is None:
        await in_thread(close)
    else:
        executor.submit(close)
        await in_thread(lambda: None, executor)


async def outlasted(future: asyncio.Future[T], has_begun: Callable[[], bool] = lambda: True) -> T:
    """Wait for a future. After a cancellation, wait for it for 5 s at most: it uses what the caller frees."""
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        future.add_done_callback(_ignore_error)  # the cancellation hides an error of the future
        if has_begun():
            await asyncio.wait([future], timeout=LAST_WAIT)
        raise
    return future.result()


def _ignore_error(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def engine_at(url: str) -> Any:
    """The Engine or AsyncEngine of a URL; raises OptionError. PostgreSQL has psycopg unless the URL names a driver."""
    with needs_extra("sql", "OutboxRelay"):
        from sqlalchemy import create_engine, make_url
        from sqlalchemy.exc import ArgumentError
        from sqlalchemy.ext.asyncio import create_async_engine
    # no error shows the URL, which can contain a password
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise OptionError("outbox", "a text that is no URL", _URLS) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    checked_dialect(parsed.drivername.partition("+")[0], "outbox")
    try:
        return create_async_engine(parsed) if parsed.get_dialect().is_async else create_engine(parsed)
    except (ArgumentError, ImportError) as error:
        raise OptionError("outbox", f"{parsed.drivername} ({error})", _URLS) from None


class EngineDatabase(Database):
    """The database of an Engine or AsyncEngine of SQLAlchemy."""

    def __init__(self, engine: Any, *, is_own: bool = False) -> None:
        """With `is_own`, no other code uses the engine, so `close` ends its connections."""
        with needs_extra("sql", "OutboxRelay"):
            from sqlalchemy import Engine
            from sqlalchemy.ext.asyncio import AsyncEngine
        if not isinstance(engine, Engine | AsyncEngine):
            raise OptionError("engine", type(engine).__name__, "an Engine or AsyncEngine of SQLAlchemy")
        self._engine: Any = engine
        self._is_own = is_own
        self._is_async = isinstance(engine, AsyncEngine)
        self.dialect: Dialect = checked_dialect(engine.dialect.name, "engine")
        self.identity = identity_of_url(engine.url)
        # on SQLite, a transaction costs no round trip
        is_remote = self.dialect == "postgresql"
        self._commits_each = engine.execution_options(isolation_level="AUTOCOMMIT") if is_remote else engine

    def check_exists(self) -> None:
        name = self._engine.url.database
        # SQLite also takes names that are no paths
        if self.dialect == "sqlite" and name and not name.startswith((":memory:", "file:")) and not Path(name).exists():
            raise OptionError("outbox", name, "the file of a database that exists")

    async def run(self, work: Callable[[Connected], T], executor: Executor | None = None) -> T:
        return await self._run(self._engine, work, executor)

    async def run_one(self, work: Callable[[Connected], T], executor: Executor | None = None) -> T:
        return await self._run(self._commits_each, work, executor)

    async def _run(self, engine: Any, work: Callable[[Connected], T], executor: Executor | None) -> T:
        if self._is_async:
            async with engine.begin() as connection:
                answer: T = await connection.run_sync(self._connected(work))
            return answer

        def run() -> T:
            with engine.begin() as connection:
                return self._connected(work)(connection)

        return await in_thread(run, executor)

    async def close(self) -> None:
        if self._is_own:
            disposing = self._engine.dispose()
            if disposing is not None:
                await disposing

    def _connected(self, work: Callable[[Connected], T]) -> Callable[[Any], T]:
        return lambda connection: work(SqlAlchemyConnected(connection, self.dialect))

    async def listen(self, channel: str, wake: Callable[[], None], executor: Executor | None) -> Listener | None:
        if self.dialect != "postgresql":
            return None
        if self._is_async:
            connection = await self._engine.connect()
            driver = await connection.run_sync(_listening, channel, self._engine.dialect.driver)

            async def close() -> None:
                # SQLAlchemy leaves the connection of some asynchronous drivers open if it is out of its pool
                try:
                    await connection.close()
                finally:
                    await driver.close()
        else:

            def open_and_listen() -> tuple[Any, Any]:
                opened = self._engine.connect()
                return opened, _listening(opened, channel, self._engine.dialect.driver)

            opened, driver = await in_thread(open_and_listen, executor)

            async def close() -> None:
                await close_in_thread(opened.close, executor)

        return await listener_of(driver, channel, wake, close)


def _listening(connection: Any, channel: str, driver: str) -> Any:
    """Take a connection out of its pool and let it listen; returns the connection of the driver."""
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connected = connection.connection.driver_connection
    connection.detach()
    if driver != "asyncpg":  # the driver sends LISTEN itself
        connection.exec_driver_sql(f'LISTEN "{channel}"')
    return connected
