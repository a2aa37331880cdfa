"""The list of instances, with filters, and the choice of what to do with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from peerjob.model.errors import OptionError, ScheduleError
from peerjob.model.query import Query
from peerjob.model.rights import Role
from peerjob.web.filters import Filters
from peerjob.web.live import Parts, changed_parts, live
from peerjob.web.lookups import page_of
from peerjob.web.page import page
from peerjob.web.samples import Sample
from peerjob.web.visit import Shown, Visit

STATES = ("Scheduled", "Processing", "Completed", "Terminated", "TimedOut", "Cancelled", "Active", "Error", "Final")


async def instances(visit: Visit) -> Shown:
    """A page of instances."""
    filters = Filters.read(visit.param)
    try:
        query = filters.query(visit.now)
        query = query.at(visit.param("cursor") or None)
        rows = await page_of(visit.manager, query, filters.error)
    except (OptionError, ScheduleError) as error:
        return Shown(
            "instances.html", **_frame(visit, filters), live="", rows=[], next="", problem=str(error), status=400
        )
    after = filters.fields() | {"cursor": rows.cursor or ""}
    following = visit.url("/instances", **after) if rows.cursor else ""
    first = not query.cursor and not filters.error
    live_link = visit.url("/live/instances", **filters.fields()) if first else ""
    return Shown("instances.html", **_frame(visit, filters), live=live_link, rows=rows, next=following, problem="")


def _frame(visit: Visit, filters: Filters) -> dict[str, Any]:
    return {
        "filters": filters,
        "states": STATES,
        "verbs": verbs(visit),
        "newest": visit.url("/instances", **filters.fields()) if visit.param("cursor") else "",
    }


def verbs(visit: Visit) -> Mapping[str, str]:
    """What the reader may do with instances: the verb, and its name on the page."""
    if not visit.may(Role.OPERATOR):
        return {}
    clear = {"clear": "Remove"} if visit.may(Role.ADMIN) else {}
    return {"cancel": "Cancel", "retry": "Retry", **clear}


async def live_instances(visit: Visit) -> Response:
    """The live view of the first page."""
    filters = Filters.read(visit.param)
    query = filters.query(visit.now)

    async def render(sample: Sample) -> Parts:
        return {"rows": await _rows(visit, filters, query, sample)}

    return live(visit, changed_parts(visit, render))


async def _rows(visit: Visit, filters: Filters, query: Query, sample: Sample) -> str:
    counts = {kind: dict(states) for kind, states in sample.stats.counts.items()}
    rows = await visit.served.lists.page(query, counts)
    values = {"rows": rows, "verbs": verbs(visit), "filters": filters}
    return visit.templates.text("instance_rows.html", now=visit.now, visit=visit, **values)


ROUTES = (
    page("/instances", instances, title="Instances"),
    page("/live/instances", live_instances),
)
