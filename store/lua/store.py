"""The store on Redis or Valkey: its verbs, over the driver that the URL asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from peerjob.clock import Clock
from peerjob.errors import LayoutError, StoreUnavailableError
from peerjob.record import Capabilities, StoreLimits
from peerjob.store.url import redact

from .driver import Driver
from .keys import prefix
from .liveness import LuaLiveness
from .nodes import NodeVerbs
from .packing import LAYOUT
from .queue import QueueVerbs
from .reading import ReadingVerbs
from .retention import RetentionVerbs

OPEN_TIMEOUT = 4.5


class LuaStore(QueueVerbs, NodeVerbs, ReadingVerbs, RetentionVerbs):
    """One namespace on one server or cluster."""

    def __init__(
        self,
        url: str,
        make_driver: Callable[[], Driver],
        *,
        engine: str,
        namespace: str,
        clock: Clock,
        limits: StoreLimits,
        retry_for: float,
    ) -> None:
        super().__init__(make_driver(), namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
        self._url = redact(url)
        self._make_driver = make_driver
        self._capabilities = Capabilities(engine=engine, durability="none")

    @property
    def url(self) -> str:
        return self._url

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def local_objects(self) -> dict[str, Any] | None:
        return None

    async def open(self) -> None:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._driver.open()
                ((layout, _now),) = await self._driver.run((self._scripts.open, (LAYOUT,)))
        except TimeoutError as error:
            raise StoreUnavailableError(self._url, f"no answer within {OPEN_TIMEOUT:g} s") from error
        if int(layout) > LAYOUT:
            raise LayoutError(
                f"namespace {self._namespace!r} has layout {int(layout)}, this release knows {LAYOUT}; update it"
            )

    async def close(self) -> None:
        await self._driver.close()

    def liveness(self) -> LuaLiveness:
        return LuaLiveness(self._url, self._make_driver)


def lua_store(url: str, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float = 30.0) -> LuaStore:
    """The store that a redis or valkey URL names, not opened yet."""
    from .redis_driver import RedisDriver

    def make_driver() -> Driver:
        return RedisDriver(url.replace("valkey", "redis", 1), prefix=prefix(namespace))

    return LuaStore(
        url, make_driver, engine="redis", namespace=namespace, clock=clock, limits=limits, retry_for=retry_for
    )
