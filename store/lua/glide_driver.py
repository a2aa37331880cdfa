"""Valkey through valkey-glide, the official client.

Its clients share one pipe per process, which the event loop of the first one reads. So a client that does not answer in
time is replaced (the new one registers the pipe anew), and leases are renewed through redis-py: see `store`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from glide import GlideError, Logger, LogLevel

from peerjob.model.errors import StoreError, StoreFullError, StoreRefusedError, StoreUnavailableError

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
from .glide_client import GlideConnection, connect
from .keys import declared
from .script import load_scripts

_PASSING = re.compile(r"connect failed|\b(BusyLoading|TryAgain|ClusterDown|MasterDown|ReadOnly|Moved|Ask|IoError)")
_MENDED = re.compile(r"\b(NOPERM|NOAUTH|WRONGPASS|PermissionDenied|AuthenticationError|NoScript)")
"""Refusals for a cause outside the request: missing rights, and scripts that were flushed between load and use."""
MAX_DURABLE_CALLS = 8
"""Calls that wait for a disk or for replicas at once; each has a client, which costs more than a connection."""
_MARGIN = 1.0
"""Seconds that GLIDE gets to report its own timeout."""

Send = Callable[[Sequence[Sequence[Argument]]], Awaitable[list[Any]]]


class GlideDriver:
    """One multiplexed client for scripts, and one of its own for each wait, as a wait blocks its connection."""

    def __init__(self, address: Address, *, prefix: str, call_timeout: float = CALL_TIMEOUT) -> None:
        self._address = address
        self._prefix = prefix
        self._declared = declared(prefix)
        self._call_timeout = call_timeout
        self._scripts = load_scripts()
        self._client: GlideConnection | None = None
        self._waiters: list[GlideConnection] = []
        """Idle clients that wait for hints, a disk or replicas."""
        self._durable_room = asyncio.Semaphore(MAX_DURABLE_CALLS)

    @property
    def url(self) -> str:
        return self._address.url

    async def open(self) -> None:
        Logger.init(LogLevel.ERROR)
        self._checked(await self._commands([("PING",)]))

    async def run(self, *calls: Call) -> list[Reply]:
        return self._checked(await self._evaluate(self._evalshas(calls), self._commands))

    async def run_durably(self, *calls: Call) -> tuple[list[Reply], str]:
        durability = self._address.durability
        if durability is None:
            return await self.run(*calls), ""
        timeout = self._call_timeout + durability.timeout

        async def send(commands: Sequence[Sequence[Argument]]) -> list[Any]:
            return await self._waiting(commands, timeout)

        commands = [*self._evalshas([*calls, (self._scripts.confirm, ())]), durability.command]
        async with self._durable_room:
            *replies, waited = await self._evaluate(commands, send)
        return self._checked(replies)[:-1], durability.missing(waited)

    def _evalshas(self, calls: Sequence[Call]) -> list[tuple[Argument, ...]]:
        return [
            ("EVALSHA", script.sha, len(self._declared), *self._declared, *arguments) for script, arguments in calls
        ]

    async def _evaluate(self, commands: Sequence[Sequence[Argument]], send: Send) -> list[Any]:
        replies = await send(commands)
        if any(isinstance(reply, GlideError) and "NoScript" in str(reply) for reply in replies):
            # all of them again: none may run before the one in front of it, and each answers twice alike
            self._checked([(await self._commands([load]))[0] for load in self._loads()])
            replies = await send(commands)
        return replies

    async def pop(self, key: str, most: int, timeout: float) -> list[bytes]:
        command = ("BLMPOP", f"{max(timeout, 0.001):.3f}", 1, key, "LEFT", "COUNT", most)
        (popped,) = self._checked(await self._waiting([command], timeout + self._call_timeout))
        # GLIDE makes a dict of the one list that had something
        return [] if popped is None else cast("dict[bytes, list[bytes]]", popped)[key.encode()]

    async def info(self) -> Mapping[str, str]:
        # no right to ask is no case here: GLIDE itself needs INFO to connect
        (reply,) = self._checked(await self._commands([("INFO",)]))
        pairs = (line.partition(":") for line in cast("bytes", reply).decode().splitlines() if ":" in line)
        return {name: value for name, _, value in pairs}

    async def config(self, pattern: str) -> Mapping[str, str]:
        (reply,) = await self._commands([("CONFIG", "GET", pattern)])
        if isinstance(reply, GlideError):
            return {}
        return {name.decode(): value.decode() for name, value in cast("dict[bytes, bytes]", reply).items()}

    async def close(self) -> None:
        await self._drop_all()

    async def _drop_all(self) -> None:
        clients = [*self._waiters, *([self._client] if self._client is not None else [])]
        self._client = None
        self._waiters.clear()
        for client in clients:
            await client.close()

    async def _commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        if self._client is None:
            self._client = await self._connect()
        client = self._client
        try:
            async with asyncio.timeout(self._call_timeout + _MARGIN):
                replies = await client.send(commands)
        except TimeoutError as error:
            # GLIDE itself was silent, so the pipe is not read any more
            if self._client is client:
                self._client = None
            await client.close()
            raise self._away(error) from error
        except GlideError as error:
            raise self._away(error) from error
        if _any_demoted(replies):
            await self._drop_all()
        return replies

    async def _waiting(self, commands: Sequence[Sequence[Argument]], timeout: float) -> list[Any]:
        """Send commands that may block their connection for up to `timeout` seconds, over one that nobody shares."""
        client = self._waiters.pop() if self._waiters else await self._connect()
        try:
            async with asyncio.timeout(timeout):
                replies = await client.send(commands, timeout=timeout)
        except BaseException as error:
            # else the server would go on waiting, and give the next hint to nobody
            await client.close()
            if isinstance(error, GlideError | TimeoutError):
                raise self._away(error) from error
            raise
        self._waiters.append(client)
        if _any_demoted(replies):
            await self._drop_all()
        return replies

    def _loads(self) -> list[tuple[Argument, ...]]:
        return [("SCRIPT", "LOAD", script.source) for script in self._scripts.all()]

    async def _connect(self) -> GlideConnection:
        return await connect(
            self._address,
            key=self._prefix,
            call_timeout=self._call_timeout,
            connect_timeout=min(CONNECT_TIMEOUT, self._call_timeout),
        )

    def _away(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(self._address.url, str(error).strip() or "no answer in time")

    def _checked(self, replies: Sequence[Any]) -> list[Reply]:
        url = self._address.url
        for reply in replies:
            if isinstance(reply, GlideError):
                text = str(reply)
                if text.startswith("OOM"):
                    raise StoreFullError(f"the store at {url} is out of memory: {text}") from reply
                if "Moved" in text and not self._address.cluster:
                    raise StoreError(NO_CLUSTER.format(url=url)) from reply
                if _PASSING.search(text) or passes_by_itself(text):
                    raise self._away(reply) from reply
                check_refusal(text, prefix=self._prefix, url=url)
                kind = StoreError if _MENDED.search(text) else StoreRefusedError
                raise kind(f"the store at {url} refused a command: {text}") from reply
        return list(replies)


def _any_demoted(replies: Sequence[Any]) -> bool:
    return any(isinstance(reply, GlideError) and is_demoted(str(reply)) for reply in replies)
