"""Scripts on blocking connections, one for each thread with a call under way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.lua.scripts.script import Argument

from .address import Address
from .blocking_connection import BlockingConnection
from .connection import pack
from .credentials import Credentials
from .driver import Driver
from .redis_driver import RedisDriver, cause_by_code
from .redis_py import connect_blocking
from .refusals import Cause
from .replies import DisconnectedError

KEPT_CONNECTIONS = 16
"""The driver keeps at most this many idle connections open."""
MAX_CALLS = 32
"""The maximum number of concurrent calls; the threads of others wait."""


class BlockingDriver(Driver):
    """The server of another driver, on connections that block. Its coroutines never suspend, and it never retries.

    It goes to the address that the other driver has reached, because only that one looks up addresses, and follows the
    sentinels and the cluster.
    """

    MAX_DURABLE_CALLS = 0

    def __init__(self, address: Address, leading: RedisDriver, *, credentials: Credentials | None) -> None:
        super().__init__(address, namespace=leading.namespace, credentials=credentials)
        self._leading = leading
        self._free: list[BlockingConnection] = []
        self._in_flight = threading.Semaphore(MAX_CALLS)

    async def _release(self) -> None:
        while self._free:
            self._free.pop().end()

    async def _leave(self) -> None:
        await self._release()

    async def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> list[Any]:
        self._check_process()
        packed = b"".join(map(pack, commands))
        if not self._in_flight.acquire(timeout=timeout):
            raise StoreUnavailableError(self.url, f"{MAX_CALLS} threads wait for answers")
        connection: BlockingConnection | None = None
        try:
            connection = self._idle() or self._open()
            replies = connection.call(packed, len(commands), timeout)
        except (DisconnectedError, OSError) as error:
            if connection is not None:
                connection.end()
            raise StoreUnavailableError(self.url, str(error)) from error
        except BaseException:
            if connection is not None:
                connection.end()
            raise
        finally:
            self._in_flight.release()
        if len(self._free) < KEPT_CONNECTIONS and not any(isinstance(reply, Exception) for reply in replies):
            self._free.append(connection)
        else:
            connection.end()
        return replies

    def _idle(self) -> BlockingConnection | None:
        """Return an idle connection, and drop those that lead elsewhere or have old credentials; None if none is left.

        Other threads take connections at the same time.
        """
        peer, given = self._leading.peer, self._leading.options.latest()
        while True:
            try:
                connection = self._free.pop()
            except IndexError:
                return None
            if connection.peer == peer and connection.given == given:
                return connection
            connection.end()

    def _open(self) -> BlockingConnection:
        peer, given = self._leading.peer, self._leading.options.latest()
        if peer is None or given is None:
            raise StoreUnavailableError(self.url, "the event loop has no connection to it at the moment")
        sock = connect_blocking(*peer, self._leading.options, given, self._call_timeout)
        return BlockingConnection(sock, peer, given)

    def _cause(self, error: Exception) -> Cause:
        return cause_by_code(error)
