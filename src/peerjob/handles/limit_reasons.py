"""Sentences about the limits that keep an instance from running. This module has no input or output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from peerjob.model.ages import moment
from peerjob.model.stored_limit import MAX_HOLDERS, InstanceLimits, LimitView

CLOCKS_DIFFER = timedelta(seconds=2)
"""How far the clock of a caller is possibly behind the clock that counts rates."""
Running = Mapping[str, Mapping[str, str]]
"""Kind → running instance → the name of its node."""


def why_limited(kind: str, limits: InstanceLimits, running: Running, now: datetime) -> Iterator[str]:
    """A sentence for each limit that an instance waits for; none for a limit that has room."""
    if limits.waits and limits.key is not None:
        nodes = running.get(kind, {})
        holders = _listed([(id, f"on {nodes[id]}" if id in nodes else "queued") for id in limits.holders])
        yield (
            f"it waits for its key {limits.key.key!r}: {limits.key.admitted} of {limits.key.concurrency} are in the "
            f"queue or run{holders}, and {limits.key.waiting} wait"
        )
    for view in limits.limits:
        if view.paused:
            note = f": {view.note}" if view.note else ""
            yield f"kind {kind!r} is paused{note}; jobctl resume --kind {kind} lets nodes claim it"
        elif view.name and view.concurrency is not None and view.running >= view.concurrency:
            yield f"limit {view.name!r} is full: {view.running} of {view.concurrency} run{_of(view, running)}"
        elif view.name and view.opens_at is not None and view.opens_at > now:
            yield f"limit {view.name!r} is closed until {moment(view.opens_at)}: {_cause(view, view.opens_at - now)}"


def _cause(view: LimitView, left: timedelta) -> str:
    """Why a limit is closed for so long. A rate that is used up opens within the time between two starts."""
    if view.rate is None or left > timedelta(microseconds=view.period_us) + CLOCKS_DIFFER:
        return "a job throttled it"
    return f"its rate of {view.rate} is used up, or a job throttled it"


def _of(view: LimitView, running: Running) -> str:
    return _listed([(id, f"on {node}") for kind in view.kinds for id, node in running.get(kind, {}).items()])


def _listed(holders: Sequence[tuple[str, str]]) -> str:
    """The holders with their locations, in brackets; "" if none is known."""
    if not holders:
        return ""
    more = ", …" if len(holders) > MAX_HOLDERS else ""
    return f" ({', '.join(f'{id} {location}' for id, location in holders[:MAX_HOLDERS])}{more})"
