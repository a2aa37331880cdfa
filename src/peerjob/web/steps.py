"""Cancel, retry or remove many instances in steps of 500.

A step takes the next instances that match, in the order of creation, and acts on the time between the first and the
last of them. So it needs one call of the manager, and the next step continues after that time. Instances of one
millisecond belong to the same step, unless there are more than 500 of them: then steps act on each by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.errors import NodeStateError, NodeStoppedError, UnknownInstanceError
from peerjob.model.ids import derived_id
from peerjob.model.pages import pages
from peerjob.model.query import Filter, Query
from peerjob.model.state import State

Verb = Literal["cancel", "retry", "clear"]

RepeatId = Callable[[Callable[[str], str]], Awaitable[str | None]]
"""Gives the id of a step, as `Visit.repeat_id` does."""

Check = Callable[[Iterable[Instance[Any]]], Awaitable[None]]
"""Raises an error for an instance on which a step must not act."""

STEP = 500
MAX_COUNTED = 10_000
"""The most instances that are counted one by one, for criteria without a counter."""
CONCURRENT = 16
"""The most calls of a step at a time, for selected instances."""
MILLISECOND = timedelta(milliseconds=1)
STATES: dict[Verb, State] = {"cancel": State.ACTIVE, "retry": State.FINAL, "clear": State.FINAL}
"""The states in which a verb has an effect."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did."""

    count: int
    after: datetime | None
    """Where the next step continues; None after the last step."""
    cursor: str | None = None
    """Where it continues within a millisecond of more than 500 instances."""


def matching(verb: Verb, query: Query) -> Query | None:
    """The query without the states in which the verb has no effect; None if no state is left."""
    states = query.states & STATES[verb]
    return replace(query, state=states, order="asc", cursor=None) if states else None


async def count(manager: Manager, query: Query) -> tuple[int, bool]:
    """How many instances match, and whether that is all of them: the count stops at 10,000."""
    if (query.id, query.tag, query.parent, query.before, query.after) == (None,) * 5:
        return await manager.count(query), True
    count, wanted = 0, replace(query, limit=1_000)
    async for page in pages(lambda cursor: manager.lookup_instances(wanted.at(cursor))):
        count += len(page)
        if count >= MAX_COUNTED and page.cursor is not None:
            return count, False
    return count, True


async def step(
    manager: Manager, verb: Verb, query: Query, repeat_id: RepeatId, *, check: Check | None = None
) -> StepResult:
    """Act on the next instances of a query that `matching` made, after its cursor if it has one. `check` gets them."""
    page = await manager.lookup_instances(replace(query, limit=STEP))
    if not page:
        return StepResult(count=0, after=None)
    if check is not None:
        await check(page)
    first, last = page[0].created_at, page[-1].created_at
    if query.cursor is not None or (page.cursor is not None and first == last):
        # a step removes a whole millisecond, since a removal cannot name single instances
        if verb != "clear":
            same = [instance.id for instance in page if instance.created_at == first]
            more = page.cursor if len(same) == len(page) else None
            after = first if more else first + MILLISECOND if len(same) < len(page) else None
            return StepResult(count=await act_on(manager, verb, same, repeat_id), after=after, cursor=more)
        end = first + MILLISECOND
    else:
        # the next page can begin within the millisecond in which this one ends
        end = last + MILLISECOND if page.cursor is None else last
    window = replace(query, cursor=None, after=first, before=end if query.before is None else min(end, query.before))
    match verb:
        case "cancel":
            done = len(await manager.cancel_instances(window))
        case "retry":
            id = await repeat_id(lambda given: derived_id(given, page[0].id))
            done = len(await manager.retry_instances(window, id=id))
        case "clear":
            done = await manager.clear_instances(Filter(after=window.after, before=window.before))
    return StepResult(count=done, after=end if page.cursor is not None else None)


async def act_on(manager: Manager, verb: Verb, ids: Iterable[str], repeat_id: RepeatId) -> int:
    """Cancel or retry single instances. Those that are gone, or in a state that refuses it, do not count."""
    concurrent = asyncio.Semaphore(CONCURRENT)

    async def act(id: str) -> bool:
        async with concurrent:
            try:
                if verb == "cancel":
                    return await manager.cancel_instance(id)
                if not (await manager.lookup_instance(id)).state.is_final:
                    return False
                given = await repeat_id(lambda given: derived_id(given, id))
                await manager.retry_instance(id, id=None if given is None else derived_id(given, id))
            except NodeStoppedError:
                raise
            except (UnknownInstanceError, NodeStateError):
                return False
            return True

    return sum(await asyncio.gather(*(act(id) for id in ids)))
