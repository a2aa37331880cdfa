"""Times for people: an age, a duration, a moment."""

from __future__ import annotations

from datetime import datetime, timedelta


def age(then: datetime | None, now: datetime) -> str:
    """The time since then, or until then: "5s", "in 3m"; "-" for never."""
    if then is None:
        return "-"
    passed = now - then
    return span(passed) if passed >= timedelta() else f"in {span(-passed)}"


def until(then: datetime | None, now: datetime) -> str:
    """The time until a planned moment: "in 3m", or "5s late" from a second on; "-" for none."""
    if then is None:
        return "-"
    left = then - now
    return f"{span(-left)} late" if left <= timedelta(seconds=-1) else f"in {span(max(left, timedelta()))}"


def span(time: timedelta) -> str:
    """A duration in its one or two largest units: "4s", "12m", "3h20m", "5d"."""
    seconds = int(time.total_seconds())
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    if seconds < 172_800:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86_400}d"


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second; "-" for none."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%SZ}"
