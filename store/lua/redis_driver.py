"""Redis through redis-py: its connections only, without the retries and the bookkeeping of its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
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

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.calls import no_answer

from .address import Address
from .driver import CALL_TIMEOUT, CONNECT_TIMEOUT, Cause, Driver, is_demoted
from .script import Argument

_Place = tuple[str, int]
KEPT_CONNECTIONS = 16
"""The driver keeps at most this many idle connections open. For more concurrent calls, the driver opens more
connections."""
MAX_CALLS = 64
"""The maximum number of concurrent calls. Calls that wait for hints, for a disk or for replicas do not count."""
_CAUSES = (
    (OutOfMemoryError, Cause.FULL),
    (MovedError, Cause.MOVED),
    ((AskError, ClusterDownError, ReadOnlyError, TryAgainError), Cause.PASSING),
    (NoPermissionError, Cause.FORBIDDEN),
    (NoScriptError, Cause.NO_SCRIPT),
)
"""Errors that are classified by their class, because redis-py removes the error code from the text."""


class RedisDriver(Driver):
    """One server, with a connection for each call under way."""

    MAX_DURABLE_CALLS = 32

    def __init__(self, address: Address, *, namespace: str, call_timeout: float = CALL_TIMEOUT) -> None:
        super().__init__(address, namespace=namespace, call_timeout=call_timeout)
        self._free: list[Connection] = []
        self._closed = False
        self._room = asyncio.Semaphore(MAX_CALLS)
        self._options = _connection_options(address, min(CONNECT_TIMEOUT, call_timeout))
        self._cluster_nodes = [(address.host, address.port)]
        self._server = None if address.cluster else (address.host, address.port)
        """Host and port of the server that has the namespace. None: the driver must ask the cluster."""

    async def close(self) -> None:
        self._closed = True
        await self._drop_free()

    async def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> list[Any]:
        if not alone:
            await self._room.acquire()
        packed = [_pack(command) for command in commands]
        connection: Connection | None = None
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                connection = self._free.pop() if self._free else await self._connection()
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _answer(connection) for _ in commands]
        except (RedisError, OSError, TimeoutError) as error:
            await self._lost(connection)
            reason = no_answer(limit, timeout) if isinstance(error, TimeoutError) else str(error)
            raise StoreUnavailableError(self._address.url, reason) from error
        except BaseException:
            if connection is not None:
                await connection.disconnect(nowait=True)
            raise
        finally:
            if not alone:
                self._room.release()
        if any(map(_leads_elsewhere, replies)):
            await self._lost(connection)
        elif self._closed or len(self._free) >= KEPT_CONNECTIONS:
            await connection.disconnect()
        else:
            self._free.append(connection)
        return replies

    def _cause(self, error: Exception) -> Cause:
        return next((cause for kinds, cause in _CAUSES if isinstance(error, kinds)), Cause.OTHER)

    async def _connection(self) -> Connection:
        """Return a new connection to the server of the namespace.

        The connection is opened when the first command is sent.
        """
        if self._server is None:
            self._server, self._cluster_nodes = await _locate(
                self._prefix, self._cluster_nodes, self._address, self._options
            )
        host, port = self._server
        kind = SSLConnection if self._address.tls else Connection
        return kind(host=host, port=port, **self._options)

    async def _lost(self, connection: Connection | None) -> None:
        """Close a failed connection and all idle ones.

        All lead to the same server, so the idle ones would fail one after the other.
        """
        if connection is not None:
            await connection.disconnect(nowait=True)
        await self._drop_free()
        if self._address.cluster:
            self._server = None

    async def _drop_free(self) -> None:
        while self._free:
            await self._free.pop().disconnect(nowait=True)


# Cast, because the type stub of hiredis allows only commands of one word.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


def _leads_elsewhere(reply: Any) -> bool:
    """Return whether a reply is an error which says that another server is the primary of the namespace."""
    return isinstance(reply, RedisError) and (isinstance(reply, MovedError | ReadOnlyError) or is_demoted(reply))


async def _answer(connection: Connection) -> Any:
    try:
        return cast("Any", await connection.read_response(disable_decoding=True))  # pyright: ignore[reportUnknownMemberType]
    except ResponseError as error:
        return error


def _connection_options(address: Address, connect_timeout: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "peerjob",
    }
    if address.tls:
        files = {"ssl_ca_certs": address.ca_certs, "ssl_certfile": address.cert_file, "ssl_keyfile": address.key_file}
        options |= {name: str(path) for name, path in files.items() if path is not None}
    return options


async def _locate(
    prefix: str, known: Sequence[_Place], address: Address, options: Mapping[str, Any]
) -> tuple[_Place, list[_Place]]:
    """Ask a cluster for the host and port that serve keys with this prefix, and all servers, for the next search."""
    shared = {name: value for name, value in options.items() if name not in ("db", "retry")}
    cluster = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in known],
        ssl=address.tls,
        require_full_coverage=False,
        **{**shared, "socket_timeout": options["socket_connect_timeout"]},
    )
    try:
        await cluster.initialize()
        node = cluster.get_node_from_key(prefix)
        everyone = [(one.host, int(one.port)) for one in cluster.get_nodes()]
    except RedisClusterException as error:
        raise StoreUnavailableError(address.url, str(error)) from error
    finally:
        await cluster.aclose()
    if node is None:
        raise StoreUnavailableError(address.url, "no server of the cluster has the slot of this namespace")
    return (node.host, int(node.port)), everyone or list(known)
