"""Rules that are the same in each engine: the layout of a namespace, and limits, texts and checks of fires.

The layout of a namespace decides which releases may write it. A release with incompatible transitions raises the
number. Every transaction that writes compares it, so a node of another release changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.errors import LayoutError
from peerjob.model.firing import MAX_SCHEDULES, Fire, FireOutcome

LAYOUT = 2
"""The layout that the running version of peerjob writes. Layout 1 was written before version 0.1 and cannot be read."""
MAX_REMOVALS = 1_000
"""The store remembers this many removals of schedules; a reader that missed more removals loads all schedules again."""
STILL_RUNS = "an earlier instance is not over"
QUEUE_FULL = "the queue is full"
KEY_TAKEN = "the key is taken"
"""STILL_RUNS, QUEUE_FULL and KEY_TAKEN are the reasons in the record of a fire that the store skipped."""
REPLACED = "replaced by a later fire"
"""The note of an instance that a later fire cancelled, because the schedule has the overlap policy REPLACE."""

_MAKES_INSTANCE = (FireOutcome.FIRED, FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


def check_layout(layout: str, *, namespace: str, url: str) -> None:
    """Raise LayoutError unless a namespace has the layout of this release."""
    if layout == str(LAYOUT):
        return
    number = int(layout) if layout.isascii() and layout.isdigit() else None
    if number is not None and number < LAYOUT:
        cure = f"it was written before release 0.1: remove it with `jobd clear --namespace {namespace}`"
    else:
        cure = "a newer release writes it: upgrade this node"
    raise LayoutError(
        f"namespace {namespace!r} at {url} has layout {layout}, this release has layout {LAYOUT}; {cure}",
        found=number,
        known=LAYOUT,
    )


def check_fires(fires: Sequence[Fire]) -> None:
    """Raise ValueError if the call is too large, or if a fire has an instance that does not fit its outcome."""
    check_count(fires, "fires")
    for fire in fires:
        if (fire.instance is None) == (fire.outcome in _MAKES_INSTANCE):
            needed = "needs an instance" if fire.instance is None else "takes no instance"
            raise ValueError(f"fire of {fire.schedule!r}: the outcome {fire.outcome.value!r} {needed}")


def check_count(items: Sequence[object], what: str) -> None:
    """Raise ValueError if one call has too many schedules or fires."""
    if len(items) > MAX_SCHEDULES:
        raise ValueError(f"a call holds at most {MAX_SCHEDULES} {what}, got {len(items)}")
