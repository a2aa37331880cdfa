"""Limits for one caller of a service, so that others can be served, too."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator

from .clock import Clock

LOG_SECONDS = 60.0
"""The least seconds between two log lines about the same limit."""


class Shares:
    """Counts what each caller holds of a limit of `most` in all, or of none. One caller may hold at most `share`.

    The last `reserve` permits are for admins.
    """

    def __init__(self, most: float, share: int, reserve: int = 0) -> None:
        self._most = most
        self._share = share
        self._reserve = reserve
        self._held: dict[str, int] = {}
        self.total = 0

    def admits(self, caller: str, *, admin: bool = False) -> bool:
        """Whether a caller may take one permit more."""
        most = self._most if admin else self._most - self._reserve
        return self.total < most and self.has_share(caller)

    def has_share(self, caller: str) -> bool:
        """Whether a caller holds less than one caller may."""
        return self._held.get(caller, 0) < self._share

    @contextlib.contextmanager
    def taken(self, caller: str) -> Generator[None]:
        """Take a permit until the `with` block ends."""
        self.take(caller)
        try:
            yield
        finally:
            self.give_back(caller)

    def take(self, caller: str) -> None:
        self.total += 1
        self._held[caller] = self._held.get(caller, 0) + 1

    def give_back(self, caller: str) -> None:
        self.total -= 1
        left = self._held[caller] - 1
        if left:
            self._held[caller] = left
        else:
            del self._held[caller]


class LimitLog:
    """Warns of a limit that is met, once in a while: a caller that meets it again and again must not fill the log."""

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        self._last: dict[str, float] = {}

    def warn(self, limit: str, text: str, *args: object) -> None:
        """Log a line about a limit, unless one about the same limit is not yet `LOG_SECONDS` old."""
        now = self._clock.elapsed()
        if now - self._last.get(limit, -LOG_SECONDS) >= LOG_SECONDS:
            self._last[limit] = now
            self._logger.warning(text, *args)
