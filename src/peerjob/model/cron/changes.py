"""The effects of clock changes on a cron job."""

from __future__ import annotations

from collections.abc import Iterator

from .engine import Cron
from .words import clock
from .zones import Span, transitions

MAX_LISTED = 3
"""Most wall times that the text of one clock change lists; further ones are shown as "…"."""


def clock_changes(cron: Cron, after: int, until: int) -> Iterator[tuple[int, int, str]]:
    """Yield each change of the zone's clocks in (after, until]: instant, shift in seconds, and effect."""
    for before, span in transitions(cron.zone, after, until):
        yield span.start, span.offset - before.offset, _effect(cron, span)


def _effect(cron: Cron, span: Span) -> str:
    low, high = sorted((span.reached, span.wall))
    walls = _walls(cron, low, high)
    if not walls:
        return "runs as usual"
    skipped = span.reached < span.wall
    if not cron.fixed:
        stretch = f"{clock(low)} to {clock(high)}"
        return f"{stretch} does not exist: nothing runs for it" if skipped else f"{stretch} happens twice: runs in both"
    times = ", ".join(clock(wall) for wall in walls[:MAX_LISTED]) + (", …" if len(walls) > MAX_LISTED else "")
    if skipped:
        return f"{times} {'does' if len(walls) == 1 else 'do'} not exist: runs once, at {clock(span.wall)}"
    return f"{times} {'happens' if len(walls) == 1 else 'happen'} twice: runs at the first only"


def _walls(cron: Cron, low: int, high: int) -> list[int]:
    walls: list[int] = []
    while len(walls) <= MAX_LISTED and (wall := cron.first_wall(low, high)) is not None:
        walls.append(wall)
        low = wall + 1
    return walls
