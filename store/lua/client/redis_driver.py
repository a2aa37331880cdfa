"""Redis and Valkey through connections of redis-py: one for each call in flight."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.model.permits import Permits
from peerjob.store.calls import no_answer
from peerjob.store.lua.scripts.script import Argument
from peerjob.store.per_loop import PerLoop
from peerjob.store.url import Host

from .address import Address
from .cluster_search import locate
from .connection import ServerConnection, pack
from .connection_options import server_options
from .credentials import Credentials
from .driver import CALL_TIMEOUT, Driver
from .refusals import Cause, is_demoted
from .replies import CallTimeoutError, DisconnectedError, ServerError

KEPT_CONNECTIONS = 16
"""The driver keeps at most this many idle connections open. For more concurrent calls, the driver opens more
connections."""
MAX_CALLS = 64
"""The maximum number of concurrent calls. Calls that wait for hints, for a disk or for replicas do not count."""
_CAUSES = {"OOM": Cause.FULL, "MOVED": Cause.MOVED, "NOSCRIPT": Cause.NO_SCRIPT}
"""Causes by the code of an error; the driver of both client libraries finds the others by their text."""


class _LeftError(DisconnectedError):
    """The sentinels chose another primary, which the driver knows already."""

    def __init__(self) -> None:
        super().__init__("the sentinels chose another primary")


class RedisDriver(Driver):
    """One server, with a connection for each call in flight."""

    MAX_DURABLE_CALLS = 32

    def __init__(
        self,
        address: Address,
        *,
        namespace: str,
        call_timeout: float = CALL_TIMEOUT,
        credentials: Credentials | None = None,
    ) -> None:
        super().__init__(address, namespace=namespace, call_timeout=call_timeout, credentials=credentials)
        self._free: list[ServerConnection] = []
        self._busy: set[ServerConnection] = set()
        """The connections with a call in flight."""
        self._opening: set[asyncio.Timeout] = set()
        """The time limits of the connections that are being opened."""
        self._losses = 0
        """How many times all connections had to be closed. A connection that was opened before is not kept."""
        self._closed = False
        self._in_flight = PerLoop(lambda: Permits(MAX_CALLS))
        self.options = server_options(address, self._connect_timeout, credentials)
        self._reached: tuple[Host | str, str] | None = None
        """The server of the latest connection, and its address."""
        self._members = address.hosts
        """The known members of the cluster."""

    @property
    def peer(self) -> tuple[Host | str, str] | None:
        """The server that has the namespace, and the address where it was reached; None until it is reached.

        A server that is no longer the primary can still answer: what it takes now is lost.
        """
        reached = self._reached
        return reached if reached is not None and reached[0] == (self._address.socket or self._server) else None

    async def open(self) -> None:
        self._closed = False
        await super().open()

    async def _release(self) -> None:
        self._closed = True
        self._drop_free()
        self._forget_server()  # it may be another one when the driver is opened again

    def give_up(self) -> None:
        self._drop(None)

    async def _moved(self, primary: Host) -> None:
        await super()._moved(primary)
        # A call can have found this primary before the sentinels told it. Then others still wait for the old one.
        self._end_calls_elsewhere()

    async def _leave(self) -> None:
        now = asyncio.get_running_loop().time()
        opening, self._opening = self._opening, set()
        for limit in opening:
            with contextlib.suppress(RuntimeError):  # the connection is open or has failed
                limit.reschedule(now)
        self._end_calls_elsewhere()
        self._drop_free()

    def _end_calls_elsewhere(self) -> None:
        for connection in self._busy:
            if connection.server != self._server:
                connection.fail(_LeftError())

    async def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> list[Any]:
        self._check_process()
        packed = b"".join(map(pack, commands))  # before it takes a permit: fails if a text cannot be encoded
        permits = None if alone else self._in_flight()
        if permits is not None and not permits.take():
            await permits.wait()
        deadline = asyncio.get_running_loop().time() + timeout
        connection: ServerConnection | None = None
        losses = self._losses
        try:
            connection = self._idle() or await self._open(deadline)
            self._busy.add(connection)
            if self._credentials is not None:
                await self._sign_in_again(connection, self._credentials, deadline)
            replies = await connection.call(packed, len(commands), deadline)
        except _LeftError as error:
            if connection is not None:
                connection.end()
            raise StoreUnavailableError(self._address.url, str(error)) from error
        except (ServerError, DisconnectedError, OSError) as error:
            self._drop(connection, losses)
            if isinstance(error, StoreError):
                raise
            raise self._failure(error, timeout) from error
        except BaseException:
            if connection is not None:
                connection.end()
            raise
        else:
            self._give_back(connection, replies, losses)
            return replies
        finally:
            if connection is not None:
                self._busy.discard(connection)
            if permits is not None:
                permits.give_back()

    def _failure(self, error: Exception, timeout: float) -> StoreError:
        if isinstance(error, ServerError):
            # Errors of the commands are replies, so the server refused the connection itself.
            return self._refusal(error, connecting=True)
        reason = no_answer(timeout, error.late) if isinstance(error, CallTimeoutError) else str(error)
        return StoreUnavailableError(self._address.url, reason)

    def _cause(self, error: Exception) -> Cause:
        return cause_by_code(error)

    def _idle(self) -> ServerConnection | None:
        """Return an idle connection, and drop those that the server has closed; None if there is none."""
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed:
                return connection
            connection.end()
        return None

    def _give_back(self, connection: ServerConnection, replies: Sequence[Any], losses: int) -> None:
        """Keep the connection of a call for the next call, or end it.

        `losses` is the number from the start of the call: if another call has met a lost server since, this connection
        may lead there, too.
        """
        for reply in replies:
            if isinstance(reply, ServerError) and _leads_elsewhere(reply):
                self._drop(connection)
                return
        if self._closed or losses != self._losses or len(self._free) >= KEPT_CONNECTIONS:
            connection.end()
        else:
            self._free.append(connection)

    async def _sign_in_again(self, connection: ServerConnection, credentials: Credentials, deadline: float) -> None:
        """Let the connection have the latest credentials: those that it was opened with will end."""
        try:
            async with asyncio.timeout_at(deadline):
                await connection.sign_in_again(credentials, deadline)
        except CallTimeoutError:
            raise
        except TimeoutError as error:  # the provider did not answer
            raise CallTimeoutError(asyncio.get_running_loop().time() - deadline) from error

    async def _open(self, deadline: float) -> ServerConnection:
        """Return a new open connection."""
        limit = asyncio.timeout_at(deadline)
        self._opening.add(limit)
        try:
            async with limit:
                server = self._address.socket or self._server or await self._located()
                connection = await ServerConnection.open(server, self.options, deadline)
        except TimeoutError as error:
            if limit not in self._opening:
                raise _LeftError from error
            if limit.expired():
                raise CallTimeoutError(asyncio.get_running_loop().time() - deadline) from error
            raise
        else:
            if limit not in self._opening:  # it opened before the limit could end it
                connection.end()
                raise _LeftError
            self._reached = server, connection.address
            return connection
        finally:
            self._opening.discard(limit)

    async def _locate(self) -> Host:
        if not self._address.cluster:
            return await super()._locate()
        # The hosts of the URL, too: all others can have new addresses since the last search.
        known = tuple(dict.fromkeys((*self._members, *self._address.hosts)))
        primary, self._members = await locate(self._prefix, known, self._address, self.options)
        return primary

    def _drop(self, connection: ServerConnection | None, losses: int | None = None) -> None:
        """Close a failed connection and all idle ones, unless it led to a server that the driver has left already.

        All idle ones lead to one server, so they would fail one after the other. `losses` is the number from the start
        of the call: a call without a connection was perhaps refused by the server that another call has left since.
        """
        if connection is not None:
            connection.end()
            if self._server is not None and connection.server != self._server:
                return
        elif losses not in (None, self._losses):
            return
        self._drop_free()
        self._forget_server()

    def _drop_free(self) -> None:
        self._losses += 1
        while self._free:
            self._free.pop().end()


def cause_by_code(error: Exception) -> Cause:
    """Why a server refused a command, by the code of its error; OTHER if the code alone does not tell."""
    return _CAUSES.get(error.code, Cause.OTHER) if isinstance(error, ServerError) else Cause.OTHER


def _leads_elsewhere(error: ServerError) -> bool:
    """Return whether an error says that another server is the primary of the namespace."""
    return error.code in ("MOVED", "READONLY") or is_demoted(error)
