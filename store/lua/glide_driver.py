"""Valkey through valkey-glide, the official client.

Its clients share one pipe per process, which the event loop of the first one reads. So a client that does not answer in
time is replaced (the new one registers the pipe anew), and leases are renewed through redis-py: see `store`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from glide import GlideError, Logger, LogLevel

from peerjob.errors import StoreError, StoreFullError, StoreUnavailableError

from .address import Address
from .driver import CALL_TIMEOUT, CONNECT_TIMEOUT, NO_CLUSTER, Argument, Call, Reply, passes_by_itself
from .glide_client import Client, connect
from .keys import declared
from .script import load_scripts

_PASSING = re.compile(r"connect failed|\b(BusyLoading|TryAgain|ClusterDown|MasterDown|ReadOnly|Moved|Ask|IoError)")
_MARGIN = 1.0
"""Seconds that GLIDE gets to report its own timeout."""


class GlideDriver:
    """One multiplexed client for scripts, and one for each wait, as a wait blocks its connection."""

    def __init__(self, address: Address, *, prefix: str, call_timeout: float = CALL_TIMEOUT) -> None:
        self._address = address
        self._prefix = prefix
        self._declared = declared(prefix)
        self._call_timeout = call_timeout
        self._scripts = load_scripts()
        self._client: Client | None = None
        self._poppers: list[Client] = []

    async def open(self) -> None:
        Logger.init(LogLevel.ERROR)
        self._checked(await self._commands([("PING",)]))

    async def run(self, *calls: Call) -> list[Reply]:
        commands: list[tuple[Argument, ...]] = [
            ("EVALSHA", script.sha, len(self._declared), *self._declared, *arguments) for script, arguments in calls
        ]
        replies = await self._commands(commands)
        if any(isinstance(reply, GlideError) and "NoScript" in str(reply) for reply in replies):
            # all of them again: none may run before the one in front of it, and each answers twice alike
            self._checked([(await self._commands([load]))[0] for load in self._loads()])
            replies = await self._commands(commands)
        return self._checked(replies)

    async def pop(self, key: str, most: int, timeout: float) -> list[bytes]:
        command = ("BLMPOP", f"{max(timeout, 0.001):.3f}", 1, key, "LEFT", "COUNT", most)
        client = self._poppers.pop() if self._poppers else await self._connect()
        try:
            async with asyncio.timeout(timeout + self._call_timeout):
                (reply,) = await client.send([command])
        except BaseException as error:
            # else the server would go on waiting, and give the next hint to nobody
            await client.close()
            if isinstance(error, GlideError | TimeoutError):
                raise self._away(error) from error
            raise
        self._poppers.append(client)
        (popped,) = self._checked([reply])
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
        clients = [*self._poppers, *([self._client] if self._client is not None else [])]
        self._client = None
        self._poppers.clear()
        for client in clients:
            await client.close()

    async def _commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        if self._client is None:
            self._client = await self._connect()
        client = self._client
        try:
            async with asyncio.timeout(self._call_timeout + _MARGIN):
                return await client.send(commands)
        except TimeoutError as error:
            # GLIDE itself was silent, so the pipe is not read any more
            if self._client is client:
                self._client = None
            await client.close()
            raise self._away(error) from error
        except GlideError as error:
            raise self._away(error) from error

    def _loads(self) -> list[tuple[Argument, ...]]:
        return [("SCRIPT", "LOAD", script.source) for script in self._scripts.all()]

    async def _connect(self) -> Client:
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
                raise StoreError(f"the store at {url} refused a command: {text}") from reply
        return list(replies)
