"""What every group of verbs stands on: the driver, tried again while the server is away, and the bounds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError, StoreUnconfirmedError
from peerjob.model.record import MAX_BATCH, StoreLimits
from peerjob.store.retry import LOGGER, CallRetry

from .driver import Driver
from .script import Argument, Call, Reply, Script, load_scripts

REPLY_BYTES = 1 << 20
"""Bytes after which the reply of a script ends, so that no call keeps the server long."""


class LuaCommands:
    """A group of the store's verbs over one driver."""

    def __init__(self, driver: Driver, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        self._driver = driver
        self._namespace = namespace
        self._limits = limits
        self._scripts = load_scripts()
        self._retry = CallRetry(clock=clock, retry_for=retry_for)

    async def _run(self, script: Script, *arguments: Argument) -> Reply:
        """Run one script, again and again while the server is away."""
        (reply,) = await self._retry(lambda: self._driver.run((script, arguments)))
        return reply

    async def _run_durably(self, *calls: Call) -> list[Reply]:
        """Run scripts whose loss would break a promise, until they are as durable as the URL asks for."""

        async def attempt() -> list[Reply]:
            replies, missing = await self._driver.run_durably(*calls)
            if missing:
                raise StoreUnconfirmedError(self._driver.url, missing)
            return replies

        return await self._retry(attempt)


def report_asides(asides: Sequence[bytes]) -> None:
    """Tell once what a script set aside: id, kind, reason, one after the other."""
    texts = [item.decode(errors="backslashreplace") for item in asides]
    for name, kind, why in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
        LOGGER.error("set aside instance %s of kind %r: %s", name, kind or "?", why)


def check_cursor(cursor: str, form: str) -> str:
    """A cursor that has the form of ours; raises OptionError, before a script fails over it."""
    if re.fullmatch(form, cursor, re.ASCII) is None:
        raise OptionError("cursor", cursor, "one that came with a page")
    return cursor


def check_batch(items: Sequence[object]) -> None:
    """Raise ValueError for more instances than one call may hold."""
    if len(items) > MAX_BATCH:
        raise ValueError(f"{len(items):,} instances in one call, at most {MAX_BATCH} are allowed")
