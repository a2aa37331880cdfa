"""A client that shares nothing with its store but the server: for the lease and the leadership."""

from __future__ import annotations

from collections.abc import Callable

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.store.timeouts import answer_within

from .driver import Driver
from .script import Argument, Reply


class SeparateClient:
    """Runs scripts without retries, over a driver of its own; for one event loop."""

    def __init__(self, url: str, make_driver: Callable[[], Driver], *, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._make_driver = make_driver
        self._driver: Driver | None = None

    async def open(self) -> None:
        driver = self._make_driver()
        try:
            await driver.open()
        except BaseException:
            await driver.close()
            raise
        self._driver = driver

    async def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.close()

    async def _run(self, script: str, *arguments: Argument, timeout: float) -> Reply:
        """Run a script. If no reply comes within `timeout` seconds, raise StoreUnavailableError."""
        if self._driver is None:
            raise StoreUnavailableError(self._url, "the client is not open")
        async with answer_within(timeout, url=self._url):
            (reply,) = await self._driver.run((script, arguments))
        return reply
