"""Scripts on blocking connections, one for each thread with a call under way."""

from __future__ import annotations

import contextlib
import queue
import time
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
        self._permits = queue.SimpleQueue[None]()
        for _ in range(MAX_CALLS):
            self._permits.put(None)
        self._closed = False

    async def _release(self) -> None:
        self._closed = True
        self._drop_free()

    async def _leave(self) -> None:
        self._drop_free()

    def _drop_free(self) -> None:
        """End all idle connections. Other threads take them, and give some back, at the same time."""
        with contextlib.suppress(IndexError):
            while True:
                self._free.pop().end()

    async def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> list[Any]:
        return self.exchange(b"".join(map(pack, commands)), len(commands), timeout)

    def exchange(self, packed: bytes, count: int, timeout: float | None = None) -> list[Any]:
        """Send packed commands in one write; the replies include the server's errors as values."""
        timeout = self._call_timeout if timeout is None else timeout
        self._check_process()
        connection: BlockingConnection | None = None
        permits = list[None]()
        try:
            # in one call of C: a signal handler can raise between any two calls, and the permit would be lost
            permits.extend(map(self._permits.get, (True,), (timeout,)))
            connection = self._idle() or self._open()
            replies = connection.call(packed, count, timeout)
        except queue.Empty:
            raise StoreUnavailableError(self.url, f"{MAX_CALLS} threads wait for answers") from None
        except (DisconnectedError, OSError) as error:
            if connection is not None:
                connection.end()
            self._drop_free()  # all lead to one server, so they would fail one after the other
            raise StoreUnavailableError(self.url, str(error)) from error
        except BaseException:
            if connection is not None:
                connection.end()
            raise
        finally:
            if permits:
                self._permits.put(None)
        for reply in replies:
            if isinstance(reply, Exception):
                connection.end()
                return replies
        self._give_back(connection)
        return replies

    def _give_back(self, connection: BlockingConnection) -> None:
        if len(self._free) >= KEPT_CONNECTIONS:
            connection.end()
            return
        self._free.append(connection)
        if self._closed:  # seen after it is in the list, so that the driver or this thread ends it
            self._drop_free()

    def _idle(self) -> BlockingConnection | None:
        """Return an idle connection that can be used for a call, and drop the others on the way; None if none is left.

        Other threads take connections at the same time.
        """
        peer, given = self._leading.peer, self._leading.options.latest()
        while True:
            try:
                connection = self._free.pop()
            except IndexError:
                return None
            if connection.peer == peer and connection.given == given and connection.is_usable:
                return connection
            connection.end()

    def _open(self) -> BlockingConnection:
        peer, given = self._leading.peer, self._leading.options.latest()
        if peer is None or given is None:
            raise StoreUnavailableError(self.url, "the event loop has no connection to it at the moment")
        until = time.monotonic() + self._call_timeout
        sock = connect_blocking(*peer, self._leading.options, self._call_timeout)
        connection = BlockingConnection(sock, peer, given)
        try:
            connection.sign_in(self._leading.options, max(0.001, until - time.monotonic()))
            connection.limit(self._call_timeout)
        except BaseException:
            connection.end()
            raise
        return connection

    def _cause(self, error: Exception) -> Cause:
        return cause_by_code(error)
