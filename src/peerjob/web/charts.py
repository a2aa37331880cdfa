"""Small charts as SVG, made by the server, so that they need no script."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 120, 24


def sparkline(values: Sequence[float], label: str, *, points: int = 60) -> Markup:
    """A line through the values, at most `points` of them: neighbours are added up. `label` is read aloud."""
    if not values:
        return Markup("")
    size = -(-len(values) // points)
    sums = [sum(values[at : at + size]) for at in range(0, len(values), size)]
    top, step = max(*sums, 1), WIDTH / max(1, len(sums) - 1)
    path = " ".join(
        f"{number * step:.1f},{HEIGHT - 1 - value / top * (HEIGHT - 2):.1f}" for number, value in enumerate(sums)
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
        '<polyline points="{}"/></svg>'
    ).format(WIDTH, HEIGHT, WIDTH, HEIGHT, label, path)
