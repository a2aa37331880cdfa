"""Redis and Valkey through redis-py: its connections only, without the retries and bookkeeping of its client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.store.calls import no_answer
from peerjob.store.per_loop import PerLoop
from peerjob.store.url import Host

from .address import Address
from .connection import CallTimeoutError, ServerConnection
from .driver import CALL_TIMEOUT, Cause, Driver, is_demoted
from .redis_options import connection_options, end
from .script import Argument

_LEFT = "the sentinels chose another primary"
KEPT_CONNECTIONS = 16
"""The driver keeps at most this many idle connections open. For more concurrent calls, the driver opens more
connections."""
MAX_CALLS = 64
"""The maximum number of concurrent calls. Calls that wait for hints, for a disk or for replicas do not count."""
_CAUSES = (
    (OutOfMemoryError, Cause.FULL),
    (MovedError, Cause.MOVED),
    ((AskError, ClusterDownError, ReadOnlyError, TryAgainError), Cause.PASSING),
    (AuthenticationError, Cause.CREDENTIALS),
    (NoPermissionError, Cause.FORBIDDEN),
    (NoScriptError, Cause.NO_SCRIPT),
)
"""Errors that are classified by their class, because redis-py removes the error code from the text."""


class RedisDriver(Driver):
    """One server, with a connection for each call under way."""

    MAX_DURABLE_CALLS = 32

    def __init__(self, address: Address, *, namespace: str, call_timeout: float = CALL_TIMEOUT) -> None:
        super().__init__(address, namespace=namespace, call_timeout=call_timeout)
        self._free: list[ServerConnection] = []
        self._busy: set[ServerConnection] = set()
        """The connections with a call under way."""
        self._opening: set[asyncio.Timeout] = set()
        """The time limits of the connections that are being opened."""
        self._closed = False
        self._room = PerLoop(lambda: asyncio.Semaphore(MAX_CALLS))
        self._options = connection_options(address, self._connect_timeout)
        self._members = address.hosts
        """The known members of the cluster."""

    async def open(self) -> None:
        self._closed = False
        await super().open()

    async def _release(self) -> None:
        self._closed = True
        await self._drop_free()

    async def _leave(self) -> None:
        now = asyncio.get_running_loop().time()
        opening, self._opening = self._opening, set()
        for limit in opening:
            with contextlib.suppress(RuntimeError):  # the connection is open or has failed
                limit.reschedule(now)
        for connection in self._busy:
            connection.fail(RedisConnectionError(_LEFT))
        await self._drop_free()

    async def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> list[Any]:
        room = None if alone else self._room()
        if room is not None:
            await room.acquire()
        packed = b"".join(map(_pack, commands))
        deadline = asyncio.get_running_loop().time() + timeout
        connection: ServerConnection | None = None
        try:
            connection = await self._idle() or await self._open(deadline)
            self._busy.add(connection)
            replies = await connection.call(packed, len(commands), deadline)
        except (RedisError, OSError, TimeoutError) as error:
            await self._lost(connection)
            if isinstance(error, StoreError):
                raise
            if isinstance(error, ResponseError | AuthenticationError):
                # Errors of the commands are replies, so the server refused the connection itself.
                raise self._refusal(error, connecting=True) from error
            reason = no_answer(timeout, error.late) if isinstance(error, CallTimeoutError) else str(error)
            raise StoreUnavailableError(self._address.url, reason) from error
        except BaseException:
            if connection is not None:
                await connection.end()
            raise
        else:
            await self._give_back(connection, replies)
            return replies
        finally:
            if connection is not None:
                self._busy.discard(connection)
            if room is not None:
                room.release()

    def _cause(self, error: Exception) -> Cause:
        return next((cause for kinds, cause in _CAUSES if isinstance(error, kinds)), Cause.OTHER)

    async def _idle(self) -> ServerConnection | None:
        """Return an idle connection, and drop those that the server has closed; None if there is none."""
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed:
                return connection
            await connection.end()
        return None

    async def _give_back(self, connection: ServerConnection, replies: Sequence[Any]) -> None:
        """Keep the connection of a call for the next call, or end it."""
        if any(map(_leads_elsewhere, replies)):
            await self._lost(connection)
        elif self._closed or len(self._free) >= KEPT_CONNECTIONS:
            await connection.end()
        else:
            self._free.append(connection)

    async def _open(self, deadline: float) -> ServerConnection:
        """Return a new open connection."""
        limit = asyncio.timeout_at(deadline)
        self._opening.add(limit)
        try:
            async with limit:
                return await ServerConnection.open(await self._connection())
        except TimeoutError as error:
            if limit not in self._opening:
                raise RedisConnectionError(_LEFT) from error
            if limit.expired():
                raise CallTimeoutError(asyncio.get_running_loop().time() - deadline) from error
            raise
        finally:
            self._opening.discard(limit)

    async def _connection(self) -> AbstractConnection:
        """Return a connection to the server of the namespace, which is not open yet."""
        if self._address.socket:
            return UnixDomainSocketConnection(path=self._address.socket, **self._options)
        host, port = self._server or await self._located()
        kind = SSLConnection if self._address.tls else Connection
        return kind(host=host, port=port, **self._options)

    async def _locate(self) -> Host:
        if not self._address.cluster:
            return await super()._locate()
        found, self._members = await _locate(self._prefix, self._members, self._address, self._options)
        return found

    async def _lost(self, connection: ServerConnection | None) -> None:
        """Close a failed connection and all idle ones.

        All lead to the same server, so the idle ones would fail one after the other.
        """
        if connection is not None:
            await connection.end()
        await self._drop_free()
        self._forget_server()

    async def _drop_free(self) -> None:
        while self._free:
            await self._free.pop().end()


# Cast, because the type stub of hiredis allows only commands of one word.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


def _leads_elsewhere(reply: Any) -> bool:
    """Return whether a reply is an error which says that another server is the primary of the namespace."""
    return isinstance(reply, RedisError) and (isinstance(reply, MovedError | ReadOnlyError) or is_demoted(reply))


async def _locate(
    prefix: str, known: Sequence[Host], address: Address, options: Mapping[str, Any]
) -> tuple[Host, tuple[Host, ...]]:
    """Ask a cluster for the server that serves keys with this prefix, and all servers, for the next search.

    Raises an error of redis-py if every known server refuses the connection.
    """
    shared = {name: value for name, value in options.items() if name not in ("db", "retry")}
    cluster = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in known],
        ssl=address.tls is not None,
        require_full_coverage=False,
        **{**shared, "socket_timeout": options["socket_connect_timeout"]},
    )
    try:
        await cluster.initialize()
        node = cluster.get_node_from_key(prefix)
        everyone = tuple(Host(str(one.host), int(one.port)) for one in cluster.get_nodes())
    except RedisClusterException as error:
        if isinstance(error.__cause__, AuthenticationError | ResponseError):
            raise error.__cause__ from error
        raise StoreUnavailableError(address.url, str(error)) from error
    finally:
        await _end(cluster)
    if node is None:
        raise StoreUnavailableError(address.url, "no server of the cluster has the slot of this namespace")
    return Host(str(node.host), int(node.port)), everyone or tuple(known)


async def _end(cluster: RedisCluster) -> None:
    """Close the connections at once: a cancelled `aclose` leaves them open, and with TLS it waits for the servers."""
    for node in (*cluster.nodes_manager.startup_nodes.values(), *cluster.get_nodes()):
        for connection in node._connections:  # pyright: ignore[reportPrivateUsage]
            await end(connection)
    await cluster.aclose()
