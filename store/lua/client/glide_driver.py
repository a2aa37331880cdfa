"""Valkey through valkey-glide, the official client, for URLs that begin with `valkey+glide` or `valkeys+glide`.

All GLIDE clients of a process share one pipe, which the event loop of the first client reads. So the driver replaces a
client that does not answer in time (the new client registers the pipe again), and leases are renewed through
`redis_driver`: see `store`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from typing import Any

from glide import GlideError, Logger, LogLevel
from glide import TimeoutError as GlideTimeoutError

from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.store.lua.scripts.script import Argument
from peerjob.store.per_loop import PerLoop

from .address import Address
from .driver import CALL_TIMEOUT, Driver
from .glide_client import GlideConnection, connect
from .redis_driver import RedisDriver
from .refusals import Cause, is_demoted

_CAUSES = (
    (re.compile(r"^OOM"), Cause.FULL),
    (re.compile(r"Moved"), Cause.MOVED),
    # before the texts of lost connections, which have the reason if the server refuses INFO to a new connection
    (re.compile(r"\bPermissionDenied\b"), Cause.FORBIDDEN),
    (re.compile(r"\bunknown command\b"), Cause.NO_COMMAND),
    (re.compile(r"connect failed|\b(BusyLoading|TryAgain|ClusterDown|MasterDown|ReadOnly|Ask|IoError)"), Cause.PASSING),
    (re.compile(r"NoScript"), Cause.NO_SCRIPT),
)
"""Patterns of error texts: GLIDE has no type or code for most errors."""
_REFUSED_CONNECTION = re.compile(r"AuthenticationFailed|server refused to|timed out")
"""GLIDE's texts if a server refuses a command of a new connection: they do not have the reason of the server."""
_PROBE_TIMEOUT = 1.0
"""Seconds to ask the server why it refuses a connection."""
_MARGIN = 1.0
"""Seconds after the timeout of a call in which GLIDE can report the timeout itself."""


class GlideDriver(Driver):
    """One multiplexed client for scripts, and a client for each wait, as a wait blocks its connection."""

    MAX_DURABLE_CALLS = 8
    """Each call needs a GLIDE client of its own, and a client costs more than a connection, so the limit is low."""

    def __init__(self, address: Address, *, namespace: str, call_timeout: float = CALL_TIMEOUT) -> None:
        super().__init__(address, namespace=namespace, call_timeout=call_timeout)
        self._client: GlideConnection | None = None
        self._connecting = PerLoop(asyncio.Lock)
        self._waiters: list[GlideConnection] = []
        """Idle clients, kept for calls that wait: a waiting call needs a client that no other call shares."""
        self._waiting: set[GlideConnection] = set()
        """The clients of the calls that wait."""
        self._sharing = 0
        """Number of the calls that share a client."""
        self._closed = False

    async def open(self) -> None:
        self._closed = False
        Logger.init(LogLevel.ERROR)
        await super().open()

    async def _release(self) -> None:
        self._closed = True
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        """Close all clients except those of the calls that wait."""
        clients = [*self._waiters, *([self._client] if self._client is not None else [])]
        self._client = None
        self._waiters.clear()
        for client in clients:
            await client.close()

    async def _leave(self) -> None:
        waiting = list(self._waiting)
        await self._drop_idle()
        for client in waiting:
            await client.close()

    def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> Awaitable[list[Any]]:
        self._check_process()
        return self._send_alone(commands, timeout) if alone else self._send_shared(commands)

    async def _send_shared(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        self._sharing += 1
        try:
            client = self._client or await self._shared()
            replies = await self._share(client, commands)
        finally:
            self._sharing -= 1
            if self._closed and not self._sharing:  # the call began before the end, or came after it
                await self._drop_idle()
        await self._examine(replies)
        return replies

    async def _share(self, client: GlideConnection, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        try:
            async with asyncio.timeout(self._call_timeout + _MARGIN):
                return await client.send(commands)
        except TimeoutError as error:
            # GLIDE's own timeout is shorter and should have come first. It did not come, which shows that no event loop
            # reads GLIDE's pipe any more. Only a new client registers the pipe again, so drop this one.
            if self._client is client:
                self._client = None
            await client.close()
            raise await self._failure(error) from error
        except GlideError as error:
            raise await self._failure(error) from error

    async def _shared(self) -> GlideConnection:
        async with self._connecting():
            if self._client is None:
                self._client = await self._connect()
            return self._client

    async def _send_alone(self, commands: Sequence[tuple[Argument, ...]], timeout: float) -> list[Any]:
        client = self._waiters.pop() if self._waiters else await self._connect()
        self._waiting.add(client)
        try:
            async with asyncio.timeout(timeout):
                replies = await client.send(commands, timeout=timeout)
        except BaseException as error:
            # An open connection would continue to wait, and take the next hint although the caller is gone.
            await client.close()
            if isinstance(error, GlideError | TimeoutError):
                raise await self._failure(error) from error
            raise
        finally:
            self._waiting.discard(client)
        if self._closed:
            await client.close()
        else:
            self._waiters.append(client)
        await self._examine(replies)
        return replies

    def _cause(self, error: Exception) -> Cause:
        return next((cause for pattern, cause in _CAUSES if pattern.search(str(error))), Cause.OTHER)

    async def _connect(self) -> GlideConnection:
        return await connect(
            self._address,
            self._address.hosts if self._address.cluster else [await self._located()],
            key=self._prefix,
            call_timeout=self._call_timeout,
            connect_timeout=self._connect_timeout,
        )

    async def _examine(self, replies: Sequence[Any]) -> None:
        """Leave a server that is no longer the primary; raise the error of a server that refused the connection."""
        for reply in replies:
            if not isinstance(reply, GlideError):
                continue
            if "connect failed" in str(reply):
                raise await self._failure(reply) from reply
            if is_demoted(reply):
                self._forget_server()
                await self._drop_idle()

    async def _failure(self, error: Exception) -> StoreError:
        """The error to raise for an error of GLIDE."""
        text = str(error).strip() or "no answer in time"
        if self.cause_of(error) in (Cause.FORBIDDEN, Cause.NO_COMMAND):
            return self._refusal(error, connecting=True)
        # GLIDE hides the reason of a server that refuses a new connection; when it connects again, it only times out
        if isinstance(error, TimeoutError | GlideTimeoutError) or _REFUSED_CONNECTION.search(text):
            reason = await self._refusal_of_connection()
            if reason is not None:
                return reason
        if self.sentinels is not None:
            # a client of GLIDE would connect to the same server again, without end
            self._forget_server()
            await self._drop_idle()
        return StoreUnavailableError(self._address.url, text)

    async def _refusal_of_connection(self) -> StoreError | None:
        """Return why the server refuses a new connection, as `redis_driver` tells; None if it does not."""
        probe = RedisDriver(self._address, namespace=self.namespace, call_timeout=_PROBE_TIMEOUT)
        try:
            await probe.open()
        except StoreUnavailableError:
            return None
        except StoreError as reason:
            return reason
        finally:
            await probe.close()
        return None
