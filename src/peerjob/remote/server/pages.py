"""Pages of a lookup that fit into one message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, TypeVar

from google.protobuf.message import Message

from peerjob.handles.instance import Instance
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.query import Query, ResultPage
from peerjob.node.manager.loop_pauses import map_with_pauses
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.queries import knows_no_pages, query_of

M = TypeVar("M", pb.JobInstance, pb.HistoryEntry, pb.LogLine)
B = TypeVar("B", bound=Message)
T = TypeVar("T")

logger = logging.getLogger("peerjob.server")

MAX_BYTES = 3_500_000
"""The most bytes of instances in one response: below 4 MB, the default limit of gRPC clients."""
FIRST_STEP = 16
MAX_STEP = 250
"""The most instances that one read from the store returns: a single instance can have megabytes."""
PART_SECONDS = 5.0
"""How long one call acts on instances in parts, at most."""
PART_SHARE = 0.5
"""The share of the time left for a call in which it acts on a part. In the rest, the response is made and sent."""
FRAME_BYTES = 300
"""About the bytes of an instance in a response, without its arguments."""


async def page_of(
    look_up: Callable[[Query], Awaitable[ResultPage[T]]], to_message: Callable[[T], M], message: pb.Query
) -> tuple[list[M], dict[str, Any]]:
    """The messages of a lookup, and the fields of its response that say whether there are more."""
    query = query_of(message)
    if knows_no_pages(message):
        messages, cut = await latest_that_fit(look_up, to_message, query)
        return messages, {"cut": cut}
    messages, cursor = await page_that_fits(look_up, to_message, query)
    return messages, {"cursor": cursor}


async def page_that_fits(
    look_up: Callable[[Query], Awaitable[ResultPage[T]]], to_message: Callable[[T], M], query: Query
) -> tuple[list[M], str | None]:
    """The matches, up to the query's limit or to the size of a message, and the cursor of the next page.

    Reads in steps of as many instances as probably fit, since only the end of a step has a cursor. A step that is too
    large is read again with fewer instances. A single instance always fits.
    """
    messages: list[M] = []
    size, left, step = 0, query.limit, FIRST_STEP
    cursor = query.cursor
    while True:
        asked = min(step, left)
        page = await look_up(replace(query, limit=asked, cursor=cursor))
        shown = await map_with_pauses(page, to_message)
        added = sum(message.ByteSize() + 8 for message in shown)
        if size + added > MAX_BYTES:
            if messages:
                return messages, cursor
            if asked > 1:
                step = _leading(shown)
                continue
        messages += shown
        size, left, cursor = size + added, left - asked, page.cursor
        if cursor is None or left <= 0 or size * 2 > MAX_BYTES:
            return messages, cursor
        step = min(step * 2, MAX_STEP, max(1, (MAX_BYTES - size) * asked // max(1, added)))


def _leading(messages: Sequence[M]) -> int:
    """How many of the first instances fit; at least one."""
    size = 0
    for number, (_, group) in enumerate(groupby(messages, key=lambda message: message.uuid)):
        size += sum(message.ByteSize() + 8 for message in group)
        if size > MAX_BYTES:
            return max(1, number)
    return 1


async def latest_that_fit(
    look_up: Callable[[Query], Awaitable[ResultPage[T]]], to_message: Callable[[T], M], query: Query
) -> tuple[list[M], bool]:
    """The matches for a client that does not know pages, the oldest instance first; True if the oldest are left out.

    The messages of one instance stay in their order.
    """
    messages, cursor = await page_that_fits(look_up, to_message, replace(query, order="desc"))
    if cursor is not None:
        logger.warning(
            "a lookup without a limit matched more than fits into one response; the latest %d entries were sent",
            len(messages),
        )
    by_instance = [list(group) for _, group in groupby(messages, key=lambda message: message.uuid)]
    return [message for group in reversed(by_instance) for message in group], cursor is not None


async def part_of(
    pages: AsyncGenerator[ResultPage[Instance[Any]]], *, whole: bool, left: float | None
) -> tuple[list[Instance[Any]], str | None]:
    """The instances of one response of a verb that acts page by page, and the cursor of the next part.

    The verb goes no further than its next page. `whole` is for a client that knows no parts. `left` is the time left
    for the call, in seconds: a part that took longer would be repeated from its begin, and end no sooner.
    """
    now = asyncio.get_running_loop().time
    until, size = now() + (PART_SECONDS if left is None else min(PART_SECONDS, PART_SHARE * left)), 0
    changed: list[Instance[Any]] = []
    async with AsyncClosing(pages):
        async for page in pages:
            changed += page
            size += sum(len(instance.record.spec) + FRAME_BYTES for instance in page)
            if page.cursor is not None and not whole and (size * 2 > MAX_BYTES or now() > until):
                return changed, page.cursor
    return changed, None


async def messages_that_fit(items: Sequence[T], to_message: Callable[[T], B], to_short: Callable[[T], B]) -> list[B]:
    """Messages of all changed instances: whole ones as long as they fit, then only the ids.

    The caller cannot ask for this list again, so no instance may be left out.
    """
    size = 0

    def fitted(item: T) -> B:
        nonlocal size
        message = to_message(item) if size <= MAX_BYTES else to_short(item)
        size += message.ByteSize()
        return message

    return await map_with_pauses(items, fitted)
