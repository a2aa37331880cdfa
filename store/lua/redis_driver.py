"""Redis through redis-py: scripts straight on its connections, without its client's retries and bookkeeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from peerjob.errors import StoreError, StoreFullError, StoreUnavailableError
from peerjob.store.url import redact

from .driver import CALL_TIMEOUT, CONNECT_TIMEOUT, Argument, Call, Reply, passes_by_itself
from .script import load_scripts

# their messages come without the code
_PASSING = (AskError, ClusterDownError, MasterDownError, MovedError, ReadOnlyError, TryAgainError)
KEPT_CONNECTIONS = 32
"""Idle connections kept open; more are opened when more calls are under way."""


class RedisDriver:
    """One server, reached over as many connections as there are calls at once."""

    def __init__(self, url: str, *, prefix: str, call_timeout: float = CALL_TIMEOUT) -> None:
        self._url = redact(url)
        self._prefix = prefix
        self._call_timeout = call_timeout
        self._scripts = load_scripts()
        self._free: list[AbstractConnection] = []
        self._closed = False
        options: dict[str, Any] = dict(parse_url(url))
        self._connection_class: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options: dict[str, Any] = {
            **options,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": min(CONNECT_TIMEOUT, call_timeout),
            "retry": Retry(NoBackoff(), 0),
            "client_name": "peerjob",
        }

    async def open(self) -> None:
        await self._commands([("PING",)], self._call_timeout)

    async def run(self, *calls: Call) -> list[Reply]:
        commands = [("EVALSHA", script.sha, 1, self._prefix, *arguments) for script, arguments in calls]
        replies = await self._commands(commands, self._call_timeout)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # all of them again: none may run before the one in front of it, and each answers twice alike
            loads = [("SCRIPT", "LOAD", script.source) for script in self._scripts.all()]
            _checked(self._url, await self._commands(loads, self._call_timeout))
            replies = await self._commands(commands, self._call_timeout)
        return _checked(self._url, replies)

    async def pop(self, key: str, most: int, timeout: float) -> list[bytes]:
        command = ("BLMPOP", f"{max(timeout, 0.001):.3f}", 1, key, "LEFT", "COUNT", most)
        (reply,) = _checked(self._url, await self._commands([command], timeout + self._call_timeout))
        return [] if reply is None else reply[1]

    async def info(self) -> Mapping[str, str]:
        (reply,) = _checked(self._url, await self._commands([("INFO",)], self._call_timeout))
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
        connection = self._free.pop() if self._free else self._connection_class(**self._options)
        try:
            async with asyncio.timeout(timeout):
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _answer(connection) for _ in commands]
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise StoreUnavailableError(self._url, f"no answer within {timeout:g} s") from error
        except (RedisError, OSError) as error:
            # the others lead to the same server, and would fail one after the other
            await connection.disconnect(nowait=True)
            await self._drop_free()
            raise StoreUnavailableError(self._url, str(error)) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if self._closed or len(self._free) >= KEPT_CONNECTIONS:
            await connection.disconnect()
        else:
            self._free.append(connection)
        return replies

    async def _drop_free(self) -> None:
        while self._free:
            await self._free.pop().disconnect(nowait=True)


# its stub knows commands of one word only
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return cast("Any", await connection.read_response(disable_decoding=True))  # pyright: ignore[reportUnknownMemberType]
    except ResponseError as error:
        return error


def _checked(url: str, replies: list[Any]) -> list[Reply]:
    for reply in replies:
        if isinstance(reply, OutOfMemoryError):
            raise StoreFullError(f"the store at {url} is out of memory: {reply}") from reply
        if isinstance(reply, RedisError):
            if isinstance(reply, _PASSING) or passes_by_itself(str(reply)):
                raise StoreUnavailableError(url, str(reply)) from reply
            raise StoreError(f"the store at {url} refused a command: {reply}") from reply
    return replies
