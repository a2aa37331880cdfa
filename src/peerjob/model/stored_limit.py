"""Limits as a store keeps, counts and shows them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .clock import to_datetime

MAX_CONCURRENCY = 1_000_000
MAX_BURST = 10_000
MAX_SHARED_LIMITS = 2
"""Most shared limits of one kind."""
MAX_LIMIT_KINDS = 50
"""Most kinds that share one limit."""
MAX_HOLDERS = 10
"""Most holders of a key that the store names."""
UNITS_US = {"s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "day": 86_400_000_000}
"""The units of a rate."""
_STEP_US = 5_000
"""A node waits until a rate allows the claims of this time at once, so a high rate costs no request per claim."""

STALE_US = 60_000_000
"""How much later than this rate can make it an arrival time has to be, so that the rate was slower when it was written,
or the clock was set back. The clocks of two nodes differ by less."""


class LimitNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a limit; 0 for each that is not limited, or, in a setting, not set."""

    concurrency: int = 0
    period_us: int = 0
    """Microseconds between two claims, by the rate."""
    burst: int = 0
    """Most claims of the rate at once."""

    def over(self, code: LimitNumbers) -> LimitNumbers:
        """These numbers as a setting: stronger than those of the code, where they are set. A rate brings its burst."""
        rate = self if self.period_us else code
        burst = rate.burst if self.period_us else self.burst or code.burst
        return LimitNumbers(concurrency=self.concurrency or code.concurrency, period_us=rate.period_us, burst=burst)

    def starts_at(self, tat_us: int, now_us: int) -> int:
        """How many claims the rate allows now. `tat_us` is the theoretical arrival time of the next claim (GCRA)."""
        if not self.period_us:
            return MAX_CONCURRENCY
        latest_us, tat_us = now_us + self.burst * self.period_us, self._counting(tat_us, now_us)
        return max(0, (latest_us - max(tat_us, now_us)) // self.period_us)

    def tat_after(self, tat_us: int, now_us: int, claims: int) -> int:
        """The theoretical arrival time after claims that were given now."""
        if not self.period_us or not claims:
            return tat_us
        return max(self._counting(tat_us, now_us), now_us) + claims * self.period_us

    def _counting(self, tat_us: int, now_us: int) -> int:
        """The arrival time that counts. In place of a stale one, it is that of a limit that allows one claim."""
        latest_us = now_us + self.burst * self.period_us
        return latest_us - self.period_us if tat_us > latest_us + STALE_US else tat_us

    def opens_us(self, tat_us: int) -> int:
        """When a rate that allows no claim now opens: the claims of 5 ms are allowed then, and at least one."""
        starts = 0 if not self.period_us else min(self.burst, -(-_STEP_US // self.period_us))
        return tat_us - (self.burst - starts) * self.period_us


class LimitSupport(msgspec.Struct, frozen=True, kw_only=True):
    """What a store can do with limits."""

    max_concurrency: int = 1_000_000
    """The highest concurrency of a limit."""
    rate_clock: str = "server"
    """The clock that counts rates: "server" or "nodes"."""


class SharedLimit(msgspec.Struct, frozen=True, kw_only=True):
    """One shared limit of a kind, as its code gives it."""

    name: str
    numbers: LimitNumbers


class KindLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a kind, as a node publishes them; without any, the kind has no limits from now on."""

    kind: str
    shared: tuple[SharedLimit, ...] = ()
    """At most MAX_SHARED_LIMITS."""
    key_concurrency: int = 0
    """The concurrency of each key; 0: the kind has no key limit."""


class LimitSetting(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers that an operator sets for a shared limit, or for the keys of a kind; stronger than those of the code."""

    name: str = ""
    """The shared limit; "" for the keys of `kind`."""
    kind: str = ""
    numbers: LimitNumbers = LimitNumbers()
    """A number that is 0 is that of the code; with three zeros, the setting is removed. Keys have only concurrency."""
    note: str = ""


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A shared limit, or a kind that is paused or has a key limit, as the store sees it at one moment."""

    name: str = ""
    """The name of the shared limit; "" in the view of a kind."""
    kinds: tuple[str, ...] = ()
    """The kinds that share the limit, by name; or the one kind."""
    concurrency: int | None = None
    """Most claims at a time; in the view of a kind, the concurrency of each key. None: not limited."""
    period_us: int = 0
    burst: int | None = None
    running: int = 0
    """Number of claims of the kinds, with the bodies of cancelled instances that have not ended.

    Without a concurrency of a shared limit, a store may leave these bodies out.
    """
    waiting: int = 0
    """Number of instances in the queues of the kinds. Instances that wait for their key are in no queue."""
    remaining: int | None = None
    """How many more claims are possible now; None: any number."""
    opens_us: int = 0
    paused: bool = False
    """Whether claims pass over the kind. Only in the view of a kind."""
    note: str = ""
    """The note of the pause; if there is none, the note of the setting."""
    source: str = "code"
    """Where the numbers come from: "code" or "setting"."""

    @property
    def rate(self) -> str | None:
        """The rate, such as "100/min"; None: not limited."""
        return rate_text(self.period_us)

    @property
    def opens_at(self) -> datetime | None:
        """When the limit opens that was throttled or whose rate is used up; None if it is open."""
        return to_datetime(self.opens_us) if self.opens_us else None


class KeyLimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a kind. A key without admitted and waiting instances has no view."""

    key: str
    """"" in the view of all unfinished instances without a key, which no limit of a key counts."""
    concurrency: int | None = None
    admitted: int = 0
    """Number of instances in the queue or claimed; without a key, also delayed ones."""
    waiting: int = 0


class LimitKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key of an unfinished instance."""

    key: str
    concurrency: int
    """The concurrency that came with the instance."""
    waiting: bool = False
    """Whether the instance waits for its key."""


class InstanceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What limits an instance."""

    limits: tuple[LimitView, ...] = ()
    """The shared limits of its kind, and the view of its kind if it is paused or has a key limit."""
    key: KeyLimitView | None = None
    """The key of an unfinished instance; None: it has none."""
    waits: bool = False
    """Whether the instance waits for its key."""
    holders: tuple[str, ...] = ()
    """Up to MAX_HOLDERS instances that are in the queue or claimed with this key; read only if the instance waits."""


class LimitPage(msgspec.Struct, frozen=True):
    """A page of limits; `cursor` is None on the last page."""

    views: tuple[LimitView, ...]
    cursor: str | None = None


class KeyLimitPage(msgspec.Struct, frozen=True):
    """A page of keys, in an order that the store chooses; `cursor` is None on the last page."""

    views: tuple[KeyLimitView, ...]
    cursor: str | None = None


def rate_text(period_us: int) -> str | None:
    """The rate whose claims are so far apart, in the smallest unit in which it is a whole number; None for 0."""
    if not period_us:
        return None
    for unit, unit_us in UNITS_US.items():
        starts = round(unit_us / period_us)
        if starts and -(-unit_us // starts) == period_us:
            return f"{starts}/{unit}"
    return f"1/{period_us}us"
