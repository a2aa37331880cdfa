"""Templates: user text is never markup, and control and bidi characters are shown as escapes."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peerjob.model.ages import age, span
from peerjob.model.clock import to_datetime
from peerjob.model.json_text import to_json
from peerjob.model.printable import counted, printable
from peerjob.model.state import State

from .charts import sparkline
from .notices import notice_in
from .visit import Shown, Visit


class Renderer:
    """Renders the templates of this package."""

    def __init__(self, navigation: list[tuple[str, str]], clusters: list[str], *, signs_in: bool) -> None:
        self._environment = Environment(
            loader=PackageLoader("peerjob.web"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_finalize,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        values: dict[str, Any] = {
            "navigation": navigation,
            "clusters": clusters,
            "signs_in": signs_in,
            "State": State,
            "sparkline": sparkline,
            "counted": counted,
        }
        self._environment.globals.update(values)
        self._environment.filters.update(
            number=lambda value: f"{value:,}", json=to_json, state_class=_state_class, seconds=seconds, span=span
        )

    async def page(self, visit: Visit, shown: Shown, *, absence: str = "", since: datetime | None = None) -> str:
        """The HTML of a page. `absence` says why it has old values, and `since` when they were read."""
        return self.fragment(
            visit, shown.template, **shown.values, absence=absence, since=since, notice=notice_in(visit)
        )

    def fragment(self, visit: Visit, template: str, **values: Any) -> str:
        """The HTML of one template."""
        return self.text(template, now=visit.now, visit=visit, **values)

    def text(self, template: str, *, now: datetime | None = None, **values: Any) -> str:
        """The HTML of a template that is the same for all readers. `ago` in it needs `now`."""
        if now is not None:
            values["ago"] = partial(ago, now=now)
        return self._environment.get_template(template).render(now=now, **values)


def _finalize(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, Markup | int | float) else printable(str(value), lines=True)


def ago(at: datetime | int | None, now: datetime) -> Markup:
    """A time relative to now, with the absolute time on hover. `at` is a time, or microseconds since the epoch."""
    if at is None:
        return Markup("–")
    moment = to_datetime(at) if isinstance(at, int) else at
    text = age(moment, now)
    text = text if text.startswith("in ") else f"{text} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S %Z}", text
    )


def seconds(value: float | None) -> str:
    """A duration in seconds for people: "3 ms", "1.2 s", "4m"; "–" for None."""
    if value is None:
        return "–"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms" if value >= 0.001 else "< 1 ms"
    return f"{value:.1f} s" if value < 120 else span(timedelta(seconds=value))


def _state_class(state: State) -> str:
    return f"state state-{str(state).lower()}"
