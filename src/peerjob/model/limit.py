"""Limits of a kind: `Limit` is shared by kinds, `KeyLimit` counts each key of one kind.

`stored_limit` has the form in which a store keeps and shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from .arguments import whole_number
from .errors import OptionError
from .key_template import names_in
from .limits import MAX_LIMIT_NAME, checked_text
from .stored_limit import MAX_BURST, MAX_CONCURRENCY, UNITS_US, LimitNumbers

DEFAULT_BURST = 10
"""Most claims that a rate without `burst` allows at once."""
_RATE = re.compile(r"([0-9]{1,11})/(s|min|h|day)")
_RATES = 'a rate such as "100/min": a whole number from 1, then /s, /min, /h or /day, and at most 1,000,000/s'
_CONCURRENCY = f"a whole number from 1 to {MAX_CONCURRENCY:,} (to stop a kind, pause it)"


@dataclass(frozen=True)
class Limit:
    """A limit that any number of kinds share, in the whole cluster: at most so many claims at a time, and per time.

    - `concurrency`: most instances of its kinds that are claimed at a time, 1 to 1,000,000.
    - `rate`: most claims per time, such as "100/min": `n/s`, `n/min`, `n/h` or `n/day`. In any time t, at most
      `burst + t * rate` claims. The time between two claims is rounded up to microseconds.
    - `burst`: most claims at once, 1 to 10,000; by default n, and at most 10.

    One of concurrency and rate is needed. All kinds of a name must give the same numbers. Raises OptionError.
    """

    name: str
    _: KW_ONLY
    concurrency: int | None = None
    rate: str | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        checked_text("name", self.name, MAX_LIMIT_NAME)
        if self.concurrency is None and self.rate is None:
            raise OptionError("concurrency", None, f"{_CONCURRENCY}, or a rate")
        if self.burst is not None and self.rate is None:
            raise OptionError("burst", self.burst, "None, because there is no rate")
        limit_numbers(self.concurrency, self.rate, self.burst)


@dataclass(frozen=True)
class KeyLimit:
    """A limit for each key of a kind: at most `concurrency` instances of a key are in the queue or claimed.

    The others wait in front of the queue, and pass by priority and due time. An instance that waited goes to the end of
    the queue, so the keys take turns.

    - `key`: a text in which {name} stands for an argument, or a function of the arguments that returns a text. A key
      has 1 to 200 characters.
    - `concurrency`: 1 to 1,000,000, by default 1.

    Raises OptionError.
    """

    key: str | Callable[..., str]
    _: KW_ONLY
    concurrency: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.key, str):
            names_in(checked_text("key", self.key, MAX_LIMIT_NAME))
        elif not callable(self.key):
            raise OptionError("key", self.key, "a text with {name} for an argument, or a function that returns a text")
        checked_concurrency(self.concurrency)


def checked_concurrency(concurrency: object) -> int:
    """Return a valid concurrency; raises OptionError, which names `pause_kind`."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= MAX_CONCURRENCY:
        raise OptionError("concurrency", concurrency, _CONCURRENCY)
    return concurrency


def checked_limit_key(key: object) -> str:
    """Return the valid key of an instance; raises OptionError."""
    return checked_text("limit key", key, MAX_LIMIT_NAME)


def limit_numbers(concurrency: int | None, rate: str | None, burst: int | None) -> LimitNumbers:
    """The numbers that are given, 0 for each other; raises OptionError. A rate without a burst has the default."""
    starts, period_us = (0, 0) if rate is None else _parsed_rate(rate)
    if burst is not None:
        whole_number("burst", burst, 1, MAX_BURST)
    return LimitNumbers(
        concurrency=0 if concurrency is None else checked_concurrency(concurrency),
        period_us=period_us,
        burst=burst or min(starts, DEFAULT_BURST),
    )


def _parsed_rate(rate: object) -> tuple[int, int]:
    """The number of claims in the unit of a rate, and the microseconds between two of them, rounded up."""
    match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    starts = 0 if match is None else int(match[1])
    unit_us = 0 if match is None else UNITS_US[match[2]]
    if not 1 <= starts <= unit_us:
        raise OptionError("rate", rate, _RATES)
    return starts, -(-unit_us // starts)
