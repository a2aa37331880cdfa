"""Renewal of one lease, over a client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from peerjob.errors import StoreUnavailableError
from peerjob.record import Held, Renewed

from .driver import Driver
from .script import load_scripts


class LuaLiveness:
    """Renews over a driver that nothing else uses; opened, used and closed on one event loop."""

    def __init__(self, url: str, make_driver: Callable[[], Driver]) -> None:
        self._url = url
        self._make_driver = make_driver
        self._driver: Driver | None = None
        self._script = load_scripts().renew

    async def open(self) -> None:
        driver = self._make_driver()
        try:
            await driver.open()
        except BaseException:
            await driver.close()
            raise
        self._driver = driver

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        if self._driver is None:
            raise StoreUnavailableError(self._url, "the liveness client is not open")
        timeout = ttl_us / 5e6
        arguments = (incarnation, ttl_us, running, count, fences_digest)
        try:
            async with asyncio.timeout(timeout):
                (reply,) = await self._driver.run((self._script, arguments))
        except TimeoutError as error:
            raise StoreUnavailableError(self._url, f"no answer within {timeout:g} s") from error
        if not reply:
            return Renewed(dead=True)
        now, held, cancelled = reply
        return Renewed(
            now_us=int(now),
            held=tuple(map(_held, held[::2], held[1::2])) if held != b"" else None,
            cancelled=tuple(map(bytes.decode, cancelled)),
        )

    async def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.close()


def _held(id: bytes, fence: bytes) -> Held:
    return Held(id.decode(), int(fence))
