"""The base of each group of commands: scripts run over the driver, with retries; and shared checks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError, StoreUnconfirmedError
from peerjob.model.record import MAX_BATCH, StoreLimits
from peerjob.store.retry import LOGGER, CallRetry

from .driver import Driver
from .script import Argument, Call, Reply

MAX_REPLY_BYTES = 1 << 20
"""A script ends its reply after this many bytes, so that one call occupies the server only briefly."""


MAX_LOOKUPS = 1600
"""One script reads at most this many counters and indexes. Each takes about 1 µs, during which the server runs no other
call."""


class LuaCommands:
    """A group of the store's commands over one driver."""

    def __init__(self, driver: Driver, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        self._driver = driver
        self._namespace = namespace
        self._limits = limits
        self._clock = clock
        self._retry = CallRetry(clock=clock, retry_for=retry_for)

    async def _run(self, script: str, *arguments: Argument) -> Reply:
        """Run one script, with retries while the server is away."""
        (reply,) = await self._retry(lambda: self._driver.run((script, arguments)))
        return reply

    async def _run_durably(self, *calls: Call) -> list[Reply]:
        """Run scripts whose loss would break a guarantee, until the writes are as durable as the URL demands."""

        async def attempt() -> list[Reply]:
            replies, missing = await self._driver.run_durably(*calls)
            if missing:
                raise StoreUnconfirmedError(self._driver.url, missing)
            return replies

        return await self._retry(attempt)


def log_set_aside(fields: Sequence[bytes]) -> None:
    """Log what a script set aside: id, kind, reason, one after the other."""
    texts = [item.decode(errors="backslashreplace") for item in fields]
    for name, kind, reason in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
        LOGGER.error("set aside instance %s of kind %r: %s", name, kind or "?", reason)


def check_cursor(cursor: str, form: str) -> str:
    """The cursor, if it has our form; otherwise raises OptionError, as a script would fail on it."""
    if re.fullmatch(form, cursor, re.ASCII) is None:
        raise OptionError("cursor", cursor, "one that came with a page")
    return cursor


def check_batch(items: Sequence[object]) -> None:
    """Raise ValueError if one call has too many instances."""
    if len(items) > MAX_BATCH:
        raise ValueError(f"{len(items):,} instances in one call, at most {MAX_BATCH} are allowed")
