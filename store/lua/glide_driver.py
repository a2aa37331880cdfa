"""Valkey through valkey-glide, the official client.

All GLIDE clients of a process share one pipe, which the event loop of the first client reads. So the driver replaces a
client that does not answer in time (the new client registers the pipe again), and leases are renewed through redis-py:
see `store`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from typing import Any

from glide import GlideError, Logger, LogLevel

from peerjob.model.errors import StoreUnavailableError

from .address import Address
from .driver import CALL_TIMEOUT, CONNECT_TIMEOUT, Cause, Driver, is_demoted
from .glide_client import GlideConnection, connect
from .script import Argument

_CAUSES = (
    (re.compile(r"^OOM"), Cause.FULL),
    (re.compile(r"Moved"), Cause.MOVED),
    (re.compile(r"connect failed|\b(BusyLoading|TryAgain|ClusterDown|MasterDown|ReadOnly|Ask|IoError)"), Cause.PASSING),
    (re.compile(r"NoScript"), Cause.NO_SCRIPT),
    (re.compile(r"\b(NOPERM|NOAUTH|WRONGPASS|PermissionDenied|AuthenticationError)"), Cause.FORBIDDEN),
)
"""Patterns of error texts: GLIDE has no type or code for most errors."""
_MARGIN = 1.0
"""Seconds after the timeout of a call in which GLIDE can report the timeout itself."""


class GlideDriver(Driver):
    """One multiplexed client for scripts, and a client for each wait, as a wait blocks its connection."""

    MAX_DURABLE_CALLS = 8
    """Each call needs a GLIDE client of its own, and a client costs more than a connection, so the limit is low."""

    def __init__(self, address: Address, *, namespace: str, call_timeout: float = CALL_TIMEOUT) -> None:
        super().__init__(address, namespace=namespace, call_timeout=call_timeout)
        self._client: GlideConnection | None = None
        self._waiters: list[GlideConnection] = []
        """Idle clients, kept for calls that wait: a waiting call needs a client that no other call shares."""

    async def open(self) -> None:
        Logger.init(LogLevel.ERROR)
        await super().open()

    async def close(self) -> None:
        clients = [*self._waiters, *([self._client] if self._client is not None else [])]
        self._client = None
        self._waiters.clear()
        for client in clients:
            await client.close()

    def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> Awaitable[list[Any]]:
        return self._send_alone(commands, timeout) if alone else self._send_shared(commands)

    async def _send_shared(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        if self._client is None:
            self._client = await self._connect()
        client = self._client
        try:
            async with asyncio.timeout(self._call_timeout + _MARGIN):
                replies = await client.send(commands)
        except TimeoutError as error:
            # GLIDE's own timeout is shorter and should have come first. It did not come, which shows that no event loop
            # reads GLIDE's pipe any more. Only a new client registers the pipe again, so drop this one.
            if self._client is client:
                self._client = None
            await client.close()
            raise self._unavailable(error) from error
        except GlideError as error:
            raise self._unavailable(error) from error
        if _any_demoted(replies):
            await self.close()
        return replies

    async def _send_alone(self, commands: Sequence[tuple[Argument, ...]], timeout: float) -> list[Any]:
        client = self._waiters.pop() if self._waiters else await self._connect()
        try:
            async with asyncio.timeout(timeout):
                replies = await client.send(commands, timeout=timeout)
        except BaseException as error:
            # An open connection would continue to wait, and take the next hint although the caller is gone.
            await client.close()
            if isinstance(error, GlideError | TimeoutError):
                raise self._unavailable(error) from error
            raise
        self._waiters.append(client)
        if _any_demoted(replies):
            await self.close()
        return replies

    def _cause(self, error: Exception) -> Cause:
        return next((cause for pattern, cause in _CAUSES if pattern.search(str(error))), Cause.OTHER)

    async def _connect(self) -> GlideConnection:
        return await connect(
            self._address,
            key=self._prefix,
            call_timeout=self._call_timeout,
            connect_timeout=min(CONNECT_TIMEOUT, self._call_timeout),
        )

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(self._address.url, str(error).strip() or "no answer in time")


def _any_demoted(replies: Sequence[Any]) -> bool:
    return any(isinstance(reply, GlideError) and is_demoted(reply) for reply in replies)
