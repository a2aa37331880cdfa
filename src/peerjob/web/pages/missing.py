"""The answer to a path that no page has."""

from __future__ import annotations

from peerjob.web.security import RefusedError
from peerjob.web.visit import Shown, Visit


async def missing(visit: Visit) -> Shown:
    """Say that there is no such page."""
    raise RefusedError(404, f"There is no page {visit.path}.")
