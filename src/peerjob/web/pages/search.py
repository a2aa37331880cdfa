"""The search box: an id, a kind, a schedule or a tag leads to its page."""

from __future__ import annotations

from uuid import UUID

from peerjob.model.errors import OptionError, UnknownInstanceError, UnknownScheduleError
from peerjob.model.limits import MAX_TAG
from peerjob.model.query import Query
from peerjob.web.filters import ROWS
from peerjob.web.page import page
from peerjob.web.visit import Done, Shown, Visit

MAX_SIMILAR = 20
"""The most kinds and schedules that are offered instead."""


async def search(visit: Visit) -> Shown | Done:
    """Open what the text names, or offer what is similar."""
    text = visit.param("q")
    if not text:
        return Done(to=visit.url("/instances"))
    problem = ""
    try:
        uuid = UUID(text)
    except ValueError:
        pass
    else:
        try:
            return Done(to=visit.url(f"/instances/{(await visit.manager.lookup_instance(uuid)).id}"))
        except (UnknownInstanceError, OptionError) as error:
            problem = str(error)
    sample = await visit.served.samples.current()
    kinds = sorted({*sample.stats.counts, *(kind for node in sample.nodes for kind in node.info.kinds)})
    if text in kinds:
        return Done(to=visit.url(f"/kinds/{visit.part(text)}"))
    try:
        return Done(to=visit.url(f"/schedules/{visit.part((await visit.manager.lookup_schedule(text)).name)}"))
    except (UnknownScheduleError, OptionError):
        pass
    if len(text) <= MAX_TAG and await visit.manager.lookup_instances(Query(tag=text, limit=ROWS)):
        return Done(to=visit.url("/instances", tag=text))
    similar = [kind for kind in kinds if text.casefold() in kind.casefold()][:MAX_SIMILAR]
    schedules = [
        schedule.name for schedule in await visit.manager.schedules() if text.casefold() in schedule.name.casefold()
    ]
    return Shown("search.html", text=text, kinds=similar, schedules=schedules[:MAX_SIMILAR], problem=problem)


ROUTES = (page("/search", search),)
