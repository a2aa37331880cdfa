"""The history of an instance as a bar: how long it waited, and how long it ran on which node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from peerjob.handles.entries import HistoryEntry
from peerjob.model.ages import span
from peerjob.model.printable import printable
from peerjob.model.state import State

WIDTH, BAR = 1000, 22
"""The size of the drawing, which is stretched to the width of the page."""
LEAST = 4.0
"""The least width of a span, so that a short one can be seen."""
COLORS = {"queue": "waiting", "run": "running", "good": "completed", "warn": "cancelled", "bad": "failed"}
"""The meaning of each color, by its class in app.css."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A time in one state."""

    state: State
    begin: datetime
    end: datetime
    label: str


def stretches(history: Sequence[HistoryEntry], now: datetime) -> list[Stretch]:
    """The times between the entries; the last one ends now, unless its state is final."""
    stretches: list[Stretch] = []
    for number, entry in enumerate(history):
        last = number + 1 == len(history)
        end = (entry.timestamp if entry.state.is_final else now) if last else history[number + 1].timestamp
        where = f" on {entry.node}" if entry.state is State.PROCESSING and entry.node else ""
        note = f": {entry.note}" if entry.note else ""
        passed = "" if entry.state.is_final else f" for {span(end - entry.timestamp)}"
        label = f"{entry.state}{where}{passed}{note}"
        stretches.append(Stretch(state=entry.state, begin=entry.timestamp, end=max(end, entry.timestamp), label=label))
    return stretches


def timeline(history: Sequence[HistoryEntry], now: datetime) -> Markup:
    """The drawing; empty without a history."""
    parts = stretches(history, now)
    if not parts:
        return Markup("")
    begin, end = parts[0].begin, max(part.end for part in parts)
    whole = max((end - begin).total_seconds(), 1e-6)
    drawn: list[Markup] = []
    for part in parts:
        left = (part.begin - begin).total_seconds() / whole * (WIDTH - LEAST)
        width = max(LEAST, (part.end - part.begin).total_seconds() / whole * (WIDTH - LEAST))
        text = printable(part.label)
        drawn.append(
            Markup('<rect class="{}" x="{:.1f}" y="0" width="{:.1f}" height="{}"><title>{}</title></rect>').format(
                state_class(part.state), left, width, BAR, text
            )
        )
    label = "; ".join(printable(part.label) for part in parts[-10:])
    drawing = Markup(
        '<svg class="timeline" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, BAR, label, Markup("").join(drawn))
    # as text of the page, which keeps its size on a narrow screen
    shown = "%H:%M:%S" if begin.date() == end.date() else "%Y-%m-%d %H:%M"
    ends = Markup('<p class="ends"><span>{}</span> <span>{} UTC</span></p>').format(
        f"{begin:{shown}}", f"{end:{shown}}"
    )
    return drawing + ends + _legend(parts)


def _legend(parts: Sequence[Stretch]) -> Markup:
    """The meaning of each color that the drawing has."""
    entry = Markup('<span class="cell {}"></span> {} ')
    entries = [entry.format(name, COLORS[name]) for name in dict.fromkeys(state_class(part.state) for part in parts)]
    return Markup('<p class="legend">{}</p>').format(Markup("").join(entries))


def state_class(state: State) -> str:
    """The class of the color of a state in a drawing."""
    if state is State.PROCESSING:
        return "run"
    if state is State.COMPLETED:
        return "good"
    if state is State.CANCELLED:
        return "warn"
    return "bad" if state.is_final else "queue"
