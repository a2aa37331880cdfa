"""The pages: one file for each, with its routes. The order is that of the navigation."""

from __future__ import annotations

from peerjob.web.page import PageRoute, page

from . import (
    audit,
    bulk,
    fires,
    instance,
    instance_actions,
    instances,
    kinds,
    limits,
    nodes,
    overview,
    schedules,
    search,
)
from .missing import missing

ROUTES: tuple[PageRoute, ...] = (
    *overview.ROUTES,
    *instances.ROUTES,
    *bulk.ROUTES,
    *instance.ROUTES,
    *instance_actions.ROUTES,
    *schedules.ROUTES,
    *fires.ROUTES,
    *kinds.ROUTES,
    *limits.ROUTES,
    *nodes.ROUTES,
    *audit.ROUTES,
    *search.ROUTES,
    # matches what no other route matches
    page("/{path:path}", missing),
)
