"""Bar charts as SVG, which need no font and no script of another host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

NAMES, BARS, FIGURES = 160, 520, 90
"""The widths of the three columns: names, bars and figures."""
BAR, GAP, TOP = 14, 10, 64
OURS, OTHERS, BOUND = (
    ("#3949ab", "#7986cb", "#c5cae9"),
    ("#546e7a", "#90a4ae", "#cfd8dc"),
    ("#8d6e63", "#bcaaa4", "#d7ccc8"),
)
FONT = "font-family='system-ui, sans-serif' font-size='12'"


@dataclass(frozen=True)
class Row:
    """A peer, and a figure for each series; None where the peer has no such figure."""

    name: str
    values: Sequence[float | None]
    reference: bool = False


def bars(title: str, series: Sequence[str], rows: Sequence[Row], *, digits: int = 0, log: bool = False) -> str:
    """An SVG with a group of bars for each row, from a common zero, or on a logarithmic scale."""
    known = [value for row in rows for value in row.values if value is not None and math.isfinite(value)]
    scale = _Scale(known, log=log)
    group = BAR * len(series) + GAP
    width, height = NAMES + BARS + FIGURES, TOP + group * len(rows)
    label = f"role='img' aria-label='{escape(title)}'"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {label}>",
        f"<title>{escape(title)}</title>",
        # readable in the dark, too
        f"<rect width='{width}' height='{height}' rx='6' fill='#ffffff'/>",
        f"<text x='12' y='24' {FONT} font-weight='bold'>{escape(title)}</text>",
        *_legend(series),
    ]
    for index, row in enumerate(rows):
        top = TOP + index * group
        middle = top + BAR * len(series) / 2 + 4
        parts.append(f"<text x='{NAMES - 8}' y='{middle:g}' {FONT} text-anchor='end'>{escape(row.name)}</text>")
        for place, value in enumerate(row.values):
            y = top + place * BAR
            length = 0.0 if value is None else scale.length(value)
            colour = _colours(row)[place % 3]
            text = "—" if value is None else ("> 60" if math.isinf(value) else f"{value:,.{digits}f}")
            parts.append(f"<rect x='{NAMES}' y='{y}' width='{length:.1f}' height='{BAR - 2}' fill='{colour}'/>")
            parts.append(f"<text x='{NAMES + length + 6:.1f}' y='{y + 10}' {FONT} fill='#37474f'>{text}</text>")
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """From a figure to the length of its bar."""

    def __init__(self, values: Sequence[float], *, log: bool) -> None:
        self._log = log
        self._most = max(values, default=1.0) or 1.0
        # the shortest bar is still seen
        self._least = min((value for value in values if value > 0), default=1.0) / 2

    def length(self, value: float) -> float:
        if math.isinf(value):
            return BARS
        if not self._log:
            return BARS * value / self._most
        return BARS * math.log(max(value, self._least) / self._least) / math.log(self._most / self._least)


def _colours(row: Row) -> Sequence[str]:
    if row.reference:
        return BOUND
    return OURS if row.name.startswith("peerjob") else OTHERS


def _legend(series: Sequence[str]) -> list[str]:
    parts: list[str] = []
    x = 12
    for name, colour in zip(series, OTHERS, strict=False):
        parts.append(f"<rect x='{x}' y='36' width='12' height='12' fill='{colour}'/>")
        parts.append(f"<text x='{x + 18}' y='46' {FONT}>{escape(name)}</text>")
        x += 40 + 7 * len(name)
    return parts
