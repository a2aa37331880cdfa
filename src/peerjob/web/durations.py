"""How long an instance took: from its first start to its end, and its last run alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from peerjob.model.record import Transition
from peerjob.model.state import State


@dataclass(frozen=True, kw_only=True)
class Took:
    """Seconds of an instance that has started. Its waits for a retry, or in a snooze, are a part of the whole."""

    whole: float
    last: float
    waited: bool
    """Whether it waited after a run, so that the two differ."""
    at_least: bool
    """Whether the history no longer has the first start, so that the whole took longer."""


def took(history: Sequence[Transition], now: datetime) -> Took | None:
    """The durations by a history, until now if the last state is not final; None before the first start."""
    starts = [number for number, entry in enumerate(history) if entry.state is State.PROCESSING]
    at_least = bool(history) and history[0].count > 1
    if not starts:
        return None
    now_us = round(now.timestamp() * 1_000_000)
    first, last = (history[0] if at_least else history[starts[0]]), starts[-1]
    end_us = history[-1].at_us if history[-1].state.is_final else now_us
    run_end_us = history[last + 1].at_us if last + 1 < len(history) else now_us
    return Took(
        whole=max(0, end_us - first.at_us) / 1_000_000,
        last=max(0, run_end_us - history[last].at_us) / 1_000_000,
        waited=at_least or any(not entry.state.is_final for entry in history[starts[0] + 1 :]),
        at_least=at_least,
    )
