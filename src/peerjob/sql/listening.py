"""Notifications of PostgreSQL on a connection of each driver, without a thread that waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

LAST_WAIT = 5.0
"""Seconds that a call or its end may still take when a node stops. A database that does not answer must not keep it."""


class Listener:
    """A connection that listens. `is_broken` says whether it hears nothing more."""

    def __init__(self, wake: Callable[[], None], close: Callable[[], Awaitable[None]]) -> None:
        self.is_broken = False
        self._wake = wake
        self._close = close
        self._fd: int | None = None

    def read(self, fd: int, receive: Callable[[], bool]) -> None:
        """Call `receive` when the socket has data; it answers whether there was a notification."""

        def readable() -> None:
            try:
                woken = receive()
            except Exception:  # noqa: BLE001  # each driver has its own errors, and all of them end the connection
                self.broken()
            else:
                if woken:
                    self._wake()

        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, readable)
        readable()

    def broken(self, *_: object) -> None:
        """The connection has ended: wake the relay, which opens another one."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = None
        self.is_broken = True
        self._wake()

    def woken(self, *_: object) -> None:
        """A notification came."""
        self._wake()

    async def close(self) -> None:
        """Close the connection, for 5 s at most; errors of an ended connection do not matter."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = None
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LAST_WAIT):
                await self._close()


async def listener_of(
    driver: Any, channel: str, wake: Callable[[], None], close: Callable[[], Awaitable[None]]
) -> Listener | None:
    """Listen on the connection of a driver that has sent LISTEN; None for a driver that is not known."""
    listener = Listener(wake, close)
    if hasattr(driver, "pgconn"):  # psycopg
        pgconn = driver.pgconn

        def received() -> bool:
            pgconn.consume_input()
            woken = False
            while pgconn.notifies() is not None:
                woken = True
            return woken

        listener.read(pgconn.socket, received)
        return listener
    if hasattr(driver, "add_termination_listener"):  # asyncpg
        await driver.add_listener(channel, listener.woken)
        driver.add_termination_listener(listener.broken)
        return listener
    if hasattr(driver, "notifies") and hasattr(driver, "poll"):  # psycopg2

        def polled() -> bool:
            driver.poll()
            woken = bool(driver.notifies)
            driver.notifies.clear()
            return woken

        listener.read(driver.fileno(), polled)
        return listener
    await listener.close()
    return None
