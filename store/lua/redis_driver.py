"""Redis through redis-py: scripts straight on its connections, without its client's retries and bookkeeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from peerjob.model.errors import StoreError, StoreFullError, StoreRefusedError, StoreUnavailableError
from peerjob.store.timeouts import no_answer

from .address import Address
from .driver import (
    CALL_TIMEOUT,
    CONNECT_TIMEOUT,
    NO_CLUSTER,
    Argument,
    Call,
    Reply,
    check_refusal,
    is_demoted,
    passes_by_itself,
)
from .keys import declared
from .redis_cluster import locate
from .script import load_scripts

KEPT_CONNECTIONS = 16
"""Idle connections kept open; more are opened when more calls are under way."""
MAX_CALLS = 64
MAX_DURABLE_CALLS = 32
"""Calls under way at once; waits for hints come on top, and calls that wait for a disk or for replicas."""
_PASSING = (AskError, ClusterDownError, MasterDownError, MovedError, ReadOnlyError, TryAgainError)
"""What passes by itself, and comes without its code in the text."""

_MENDED = (AuthenticationError, NoPermissionError, NoScriptError)
"""Refusals for a cause outside the request: missing rights, and scripts that were flushed between load and use."""


class RedisDriver:
    """One server, reached over as many connections as there are calls at once."""

    def __init__(self, address: Address, *, prefix: str, call_timeout: float = CALL_TIMEOUT) -> None:
        self._address = address
        self._prefix = prefix
        self._declared = declared(prefix)
        self._call_timeout = call_timeout
        self._scripts = load_scripts()
        self._free: list[Connection] = []
        self._closed = False
        self._room = asyncio.Semaphore(MAX_CALLS)
        self._durable_room = asyncio.Semaphore(MAX_DURABLE_CALLS)
        self._options = _connection_options(address, min(CONNECT_TIMEOUT, call_timeout))
        self._cluster_nodes = [(address.host, address.port)]
        self._server = None if address.cluster else (address.host, address.port)
        """Where the namespace is; None: to be asked of the cluster."""

    @property
    def url(self) -> str:
        return self._address.url

    async def open(self) -> None:
        _ = self._checked(await self._commands([("PING",)], self._call_timeout))

    async def run(self, *calls: Call) -> list[Reply]:
        async with self._room:
            return self._checked(await self._evaluate(self._evalshas(calls), self._call_timeout))

    async def run_durably(self, *calls: Call) -> tuple[list[Reply], str]:
        durability = self._address.durability
        if durability is None:
            return await self.run(*calls), ""
        commands = [*self._evalshas([*calls, (self._scripts.confirm, ())]), durability.command]
        async with self._durable_room:
            *replies, waited = await self._evaluate(commands, self._call_timeout + durability.timeout)
        return self._checked(replies)[:-1], durability.missing(waited)

    def _evalshas(self, calls: Sequence[Call]) -> list[tuple[Argument, ...]]:
        return [
            ("EVALSHA", script.sha, len(self._declared), *self._declared, *arguments) for script, arguments in calls
        ]

    async def _evaluate(self, commands: Sequence[tuple[Argument, ...]], timeout: float) -> list[Any]:
        replies = await self._commands(commands, timeout)
        if self._address.cluster and isinstance(replies[0], MovedError):
            replies = await self._commands(commands, timeout)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # all of them again: none may run before the one in front of it, and each answers twice alike
            loads = [("SCRIPT", "LOAD", script.source) for script in self._scripts.all()]
            self._checked(await self._commands(loads, self._call_timeout))
            replies = await self._commands(commands, timeout)
        return replies

    async def pop(self, key: str, most: int, timeout: float) -> list[bytes]:
        command = ("BLMPOP", f"{max(timeout, 0.001):.3f}", 1, key, "LEFT", "COUNT", most)
        (reply,) = self._checked(await self._commands([command], timeout + self._call_timeout))
        return [] if reply is None else reply[1]

    async def info(self) -> Mapping[str, str]:
        (reply,) = await self._commands([("INFO",)], self._call_timeout)
        if isinstance(reply, NoPermissionError):
            return {}
        (reply,) = self._checked([reply])
        pairs = (line.partition(":") for line in reply.decode().splitlines() if ":" in line)
        return {name: value for name, _, value in pairs}

    async def config(self, pattern: str) -> Mapping[str, str]:
        (reply,) = await self._commands([("CONFIG", "GET", pattern)], self._call_timeout)
        if isinstance(reply, ResponseError):
            return {}
        texts = [item.decode() for item in reply]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def close(self) -> None:
        self._closed = True
        await self._drop_free()

    async def _commands(self, commands: Sequence[tuple[Argument, ...]], timeout: float) -> list[Any]:
        """Send commands in one write; the answers, errors of the server among them as values."""
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
        if any(map(_leads_elsewhere, replies)):
            await self._lost(connection)
        elif self._closed or len(self._free) >= KEPT_CONNECTIONS:
            await connection.disconnect()
        else:
            self._free.append(connection)
        return replies

    async def _connection(self) -> Connection:
        """A new connection to the server that has the namespace; it connects when it first sends."""
        if self._server is None:
            self._server, self._cluster_nodes = await locate(
                self._prefix, self._cluster_nodes, self._address, self._options
            )
        host, port = self._server
        kind = SSLConnection if self._address.tls else Connection
        return kind(host=host, port=port, **self._options)

    async def _lost(self, connection: Connection | None) -> None:
        """Forget every connection: the idle ones lead to the same server, and would fail one after the other."""
        if connection is not None:
            await connection.disconnect(nowait=True)
        await self._drop_free()
        if self._address.cluster:
            self._server = None

    async def _drop_free(self) -> None:
        while self._free:
            await self._free.pop().disconnect(nowait=True)

    def _checked(self, replies: list[Any]) -> list[Reply]:
        url = self._address.url
        for reply in replies:
            if isinstance(reply, OutOfMemoryError):
                raise StoreFullError(f"the store at {url} is out of memory: {reply}") from reply
            if isinstance(reply, MovedError) and not self._address.cluster:
                raise StoreError(NO_CLUSTER.format(url=url)) from reply
            if isinstance(reply, _PASSING) or (isinstance(reply, RedisError) and passes_by_itself(str(reply))):
                raise StoreUnavailableError(url, str(reply)) from reply
            if isinstance(reply, RedisError):
                check_refusal(str(reply), prefix=self._prefix, url=url)
                kind = StoreError if isinstance(reply, _MENDED) else StoreRefusedError
                raise kind(f"the store at {url} refused a command: {reply}") from reply
        return replies


# its stub knows commands of one word only
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


def _leads_elsewhere(reply: Any) -> bool:
    """Whether the server says that another one is the primary of this namespace."""
    return isinstance(reply, MovedError | ReadOnlyError) or (isinstance(reply, RedisError) and is_demoted(str(reply)))


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
        files = {
            "ssl_ca_certs": address.ca_certs,
            "ssl_certfile": address.cert_file,
            "ssl_keyfile": address.key_file,
        }
        options |= {name: str(path) for name, path in files.items() if path is not None}
    return options
