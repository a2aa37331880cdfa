"""A database of the project, as a relay uses it: over Django's own connections."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from django.db import connections, transaction

from peerjob.sql.databases import DaemonThread, Database, close_in_thread, in_thread
from peerjob.sql.listening import LAST_WAIT, Listener, listener_of
from peerjob.sql.sessions import identity_of_django
from peerjob.sql.statements import Connected, DjangoConnected
from peerjob.sql.tables import checked_dialect

T = TypeVar("T")


def _close(alias: str) -> None:
    """Close the connection of the present thread."""
    connections[alias].close()


class DjangoDatabase(Database):
    """The database with an alias of DATABASES. Its work has one thread, in which its connection stays open."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        connection = connections[alias]
        self.dialect = checked_dialect(connection.vendor, "outbox")
        self.identity = identity_of_django(connection, self.dialect)
        self._thread: DaemonThread | None = None

    def beside(self) -> Database:
        return DjangoDatabase(self._alias)

    async def run(self, work: Callable[[Connected], T], executor: Executor | None = None) -> T:
        def run() -> T:
            connection = connections[self._alias]
            try:
                with transaction.atomic(using=self._alias):
                    return work(DjangoConnected(connection, self.dialect))
            except BaseException:
                connection.close()  # the next call connects anew
                raise

        return await in_thread(run, self._executor())

    async def listen(self, channel: str, wake: Callable[[], None], executor: Executor | None) -> Listener | None:
        if self.dialect != "postgresql":
            return None

        def connect() -> Any:
            own: Any = connections.create_connection(self._alias)
            own.ensure_connection()
            with own.cursor() as cursor:
                cursor.execute(f'LISTEN "{channel}"')
            return own

        own = await in_thread(connect, self._executor())

        async def close() -> None:
            await close_in_thread(own.close, self._executor())

        return await listener_of(own.connection, channel, wake, close)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WAIT):
                    await close_in_thread(functools.partial(_close, self._alias), thread)
            thread.shutdown()

    def _executor(self) -> DaemonThread:
        if self._thread is None:
            self._thread = DaemonThread("peerjob-outbox")
        return self._thread
