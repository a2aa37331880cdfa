"""Templates: user text is never markup, and control and bidi characters are shown as escapes."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from peerjob.model.ages import age, span, until
from peerjob.model.clock import to_datetime
from peerjob.model.json_text import to_json
from peerjob.model.printable import counted, printable, printable_json
from peerjob.model.state import State
from peerjob.version import __version__

from .charts import sparkline
from .notices import notice_in
from .visit import Shown, Visit

_MISLEADING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Control characters, those that change the direction of text, and spaces without width."""


class Renderer:
    """Renders the templates of this package."""

    def __init__(self, navigation: list[tuple[str, str]], *, signs_in: bool) -> None:
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
            "signs_in": signs_in,
            "State": State,
            "sparkline": sparkline,
            "counted": counted,
            "version": __version__,
        }
        self._environment.globals.update(values)
        self._environment.filters.update(
            number=lambda value: f"{value:,}", json=to_json, state_class=_state_class, seconds=seconds, span=span
        )
        self._environment.filters.update(kept=kept, typed=typed, typed_json=printable_json)

    async def page(self, visit: Visit, shown: Shown, *, absence: str = "", since: datetime | None = None) -> str:
        """The HTML of a page. `absence` says why it has old values, and `since` when they were read."""
        return self.fragment(
            visit, shown.template, **shown.values, absence=absence, since=since, notice=notice_in(visit)
        )

    def fragment(self, visit: Visit, template: str, **values: Any) -> str:
        """The HTML of one template."""
        return self.text(template, now=visit.now, visit=visit, **values)

    def text(self, template: str, *, now: datetime | None = None, **values: Any) -> str:
        """The HTML of a template that is the same for all readers. `ago` and `due` in it need `now`."""
        if now is not None:
            values |= {"ago": partial(ago, now=now), "due": partial(due, now=now)}
        return self._environment.get_template(template).render(now=now, **values)


def _finalize(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, Markup | int | float) else printable(str(value), lines=True)


def kept(value: object) -> Markup:
    """A value of a hidden field, which comes back as it was. What cannot be printed stands as a character reference."""
    text = str(escape(value))
    # HTML reads references to U+0080 to U+009F as other characters
    parts = (
        character if character.isprintable() or "\x80" <= character <= "\x9f" else f"&#{ord(character)};"
        for character in text
    )
    return Markup("".join(parts))  # noqa: S704  # it is escaped


def typed(value: object) -> Markup:
    """A value of a field that people see: as it was, but for characters that change what they see."""
    return kept(_MISLEADING.sub(lambda match: ascii(match[0])[1:-1], str(value)))


def ago(at: datetime | int | None, now: datetime) -> Markup:
    """A time relative to now, with the absolute time on hover. `at` is a time, or microseconds since the epoch."""
    if at is None:
        return Markup("–")
    moment = to_datetime(at) if isinstance(at, int) else at
    text = age(moment, now)
    return _time(moment, text if text.startswith("in ") else f"{text} ago")


def due(at: datetime, now: datetime) -> Markup:
    """The time until a planned moment, which may be late, with the absolute time on hover. `jobctl` words it so too."""
    return _time(at, until(at, now), planned=True)


def _time(at: datetime, text: str, *, planned: bool = False) -> Markup:
    mark = Markup(" data-planned") if planned else ""
    return Markup('<time{} datetime="{}" title="{}">{}</time>').format(
        mark, at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S %Z}", text
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
