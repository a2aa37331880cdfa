"""Line plots as SVG, with logarithmic axes. They have a ground of their own, so they are readable on dark pages too."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 110, 40, 50
COLOURS = {"redis": "#c6302b", "valkey": "#6b3fa0", "etcd": "#2f78b7", "sqlite": "#2c8c5a", "memory": "#b07a10"}
_DASHES = ("", "6 3", "2 3")


def plot(title: str, x: str, y: str, lines: Mapping[str, Points]) -> str:
    """An SVG of lines by name; a name begins with its engine. Points that are not above zero are left out."""
    shown = {name: [point for point in points if min(point) > 0] for name, points in lines.items()}
    shown = {name: points for name, points in shown.items() if points}
    xs = [point[0] for points in shown.values() for point in points]
    ys = [point[1] for points in shown.values() for point in points]
    if not xs:
        return _svg([_text(WIDTH / 2, HEIGHT / 2, "no results", "middle")])
    across, up = _Axis(xs, _LEFT, WIDTH - _RIGHT), _Axis(ys, HEIGHT - _BOTTOM, _TOP)
    parts = [_text(_LEFT, 22, title, "start", 15)]
    for value in across.ticks:
        at = across(value)
        parts += [_line(at, _TOP, at, HEIGHT - _BOTTOM), _text(at, HEIGHT - _BOTTOM + 16, number(value), "middle")]
    for value in up.ticks:
        at = up(value)
        parts += [_line(_LEFT, at, WIDTH - _RIGHT, at), _text(_LEFT - 6, at + 4, number(value), "end")]
    parts += [
        _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 12, x, "middle"),
        f'<g transform="translate(16 {(_TOP + HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)">{_text(0, 0, y, "middle")}</g>',
    ]
    ends: list[float] = []
    for number_of_line, (name, points) in enumerate(sorted(shown.items(), key=lambda one: up(one[1][-1][1]))):
        engine = name.split()[0]
        colour, dash = COLOURS.get(engine, "#555555"), _DASHES[len(name.split()) - 1] if len(name.split()) < 4 else ""
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        parts += [f'<circle cx="{across(a):.1f}" cy="{up(b):.1f}" r="3" fill="{colour}"/>' for a, b in points]
        # labels of lines that end close together are moved apart
        at = up(points[-1][1]) + 4
        if number_of_line and at < ends[-1] + 13:
            at = ends[-1] + 13
        ends.append(at)
        parts.append(_text(WIDTH - _RIGHT + 8, at, name, "start", 12, colour))
    return _svg(parts)


class _Axis:
    """Places values on a logarithmic axis of whole decades."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.floor(math.log10(min(values)))
        self._high = max(self._low + 1, math.ceil(math.log10(max(values)) - 1e-9))
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]


def number(value: float) -> str:
    """A number for readers: 1,000 and 0.01."""
    return f"{value:,.0f}" if value >= 1 else f"{value:.10f}".rstrip("0").rstrip(".")


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "#333333") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )


def _svg(parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join((head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', *parts, "</svg>", ""))
