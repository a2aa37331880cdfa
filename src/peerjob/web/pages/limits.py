"""Limits: shared limits, paused kinds and the keys of a kind, and the forms that set numbers and pause a kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.rights import Role
from peerjob.web.page import action, page
from peerjob.web.visit import Done, Shown, Visit

T = TypeVar("T")

MAX_ROWS = 500
"""Most limits, and most keys of a kind, that a page shows."""


async def limits(visit: Visit) -> Shown:
    """The shared limits, and the kinds that are paused or limit each of their keys; or the keys of one kind."""
    manager, kind = visit.manager, visit.request.query_params.get("kind", "")
    if not kind:
        rows, cut = await _first(manager.limits())
        return Shown("limits.html", rows=rows, cut=cut, keys=None)
    keys, cut = await _first(manager.key_limits(kind, prefix=visit.param("q")))
    return Shown("limits.html", rows=[], cut=cut, keys=keys, kind=kind)


async def _first(views: AsyncIterator[T]) -> tuple[list[T], bool]:
    """The first rows, and whether there are more."""
    rows = list[T]()
    async with AsyncClosing(cast("Any", views)) as opened:
        async for view in opened:
            if len(rows) == MAX_ROWS:
                return rows, True
            rows.append(view)
    return rows, False


async def set_shared(visit: Visit) -> Done:
    """Set numbers of a shared limit; without numbers, those of the code count again."""
    name, rate = visit.chosen("name"), visit.given("rate").strip() or None
    concurrency, burst = visit.number("concurrency"), visit.number("burst")
    numbers = {"concurrency": concurrency, "rate": rate, "burst": burst}
    visit.act.criteria = " ".join(f"{word}={given}" for word, given in {"name": name, **numbers}.items() if given)
    await visit.manager.set_limit(
        name, concurrency=concurrency, rate=rate, burst=burst, note=visit.given("note").strip()
    )
    return _set(visit, is_setting=any(given is not None for given in numbers.values()))


async def set_keys(visit: Visit) -> Done:
    """Set how many instances of each key of a kind are admitted; without a number, that of the code counts again."""
    kind, concurrency = _kind(visit), visit.number("concurrency")
    visit.act.criteria += "" if concurrency is None else f" concurrency={concurrency}"
    await visit.manager.set_key_limit(kind, concurrency=concurrency, note=visit.given("note").strip())
    return _set(visit, is_setting=concurrency is not None)


def _set(visit: Visit, *, is_setting: bool) -> Done:
    return Done(to=visit.url("/limits"), notice=f"The numbers of {'this setting' if is_setting else 'the code'} count.")


async def pause(visit: Visit) -> Done:
    """Let nodes claim no instances of a kind."""
    kind = _kind(visit)
    await visit.manager.pause_kind(kind, visit.given("note").strip())
    return Done(to=visit.url("/limits"), notice="The kind is paused; its running jobs continue.")


async def resume(visit: Visit) -> Done:
    """Let nodes claim a kind again."""
    await visit.manager.resume_kind(_kind(visit))
    return Done(to=visit.url("/limits"), notice="Nodes claim the kind again.")


def _kind(visit: Visit) -> str:
    kind = visit.chosen("kind")
    visit.act.criteria = f"kind={kind}"
    return kind


ROUTES = (
    page("/limits", limits, title="Limits"),
    action("/limits/set", set_shared, role=Role.ADMIN, verb="SetLimit"),
    action("/limits/set-keys", set_keys, role=Role.ADMIN, verb="SetKeyLimit"),
    action("/limits/pause", pause, role=Role.ADMIN, verb="PauseKind"),
    action("/limits/resume", resume, role=Role.ADMIN, verb="ResumeKind"),
)
