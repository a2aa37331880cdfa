"""Live views: server-sent events with the parts of a page that have changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from peerjob.model.child_tasks import AsyncClosing, cancel, end

from .links import Links
from .patience import ABSENT
from .samples import Sample
from .viewers import MAX_VIEWERS, MAX_VIEWERS_CALLER, Viewers
from .visit import Visit

LONGEST = 60.0
"""Seconds after which a live view ends. The browser opens it again, and the rights of its reader are checked anew."""
HEARTBEAT = 15.0
"""Seconds without news after which a live view gets an empty line, so that the end of its reader is noticed."""

Parts = Mapping[str, str]
"""The id of an element of the page → its new content, as HTML."""


def live(visit: Visit, events: AsyncGenerator[str] | AsyncGenerator[str | bytes]) -> Response:
    """The response that sends events; 503 with a reason if there are too many live views."""
    if not visit.has_live_view:
        return _too_many()
    return _LiveResponse(visit, events)


class _LiveResponse(StreamingResponse):
    """Counts its view from the moment in which it begins, so that many concurrent requests do not pass the limit."""

    def __init__(self, visit: Visit, events: AsyncGenerator[str] | AsyncGenerator[str | bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_sent(visit, events), media_type="text/event-stream", headers=headers)
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._visit.has_live_view:
            await _too_many()(scope, receive, send)
            return
        # a reader that takes no more bytes keeps its permit no longer than the others
        with self._visit.viewers.counted(self._visit.caller), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST + HEARTBEAT):
                await super().__call__(scope, receive, send)


def _too_many() -> Response:
    text = f"{MAX_VIEWERS} live views are open already, or {MAX_VIEWERS_CALLER} of yours; this page does not update.\n"
    return PlainTextResponse(text, 503, headers={"Retry-After": "30"})


async def _sent(visit: Visit, events: AsyncGenerator[str] | AsyncGenerator[str | bytes]) -> AsyncGenerator[str | bytes]:
    clock = visit.manager.clock
    begun = quiet = clock.elapsed()
    async with AsyncClosing(events):
        yield "retry: 2000\n\n"
        while (text := await _next(events, visit.viewers)) is not None:
            now = clock.elapsed()
            if now - begun > LONGEST or not await visit.still_allowed():
                return
            if text or now - quiet > HEARTBEAT:
                quiet = now
                yield text or ":\n\n"


async def _next(events: AsyncGenerator[str] | AsyncGenerator[str | bytes], viewers: Viewers) -> str | bytes | None:
    """The next event; None if there is none, or if the dashboard closes."""
    reading = asyncio.ensure_future(anext(events, None))
    closing = asyncio.ensure_future(viewers.closed.wait())
    try:
        await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else None
    finally:
        cancel(closing)
        await end([reading])


def event(name: str, data: object) -> str:
    """The text of one event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def changed_parts(visit: Visit, render: Callable[[Sample], Awaitable[Parts]]) -> AsyncGenerator[str]:
    """After each sample, an event with the parts that changed, or "" if none did. All readers share the samples."""
    sent: dict[str, str] = {}
    async with AsyncClosing(visit.served.samples.follow()) as samples:
        async for sample in samples:
            try:
                parts = dict(await render(sample))
            except ABSENT:
                parts = {}  # the page stays, and the banner of a later sample says why
            parts["banner"] = banner(visit, sample)
            news = {id: text for id, text in parts.items() if sent.get(id) != text}
            sent.update(news)
            yield event("parts", news) if news else ""


def banner(visit: Visit, sample: Sample) -> str:
    """The banner that says since when the page shows old values; empty while the store answers."""
    return visit.templates.text("banner.html", now=visit.now, absence=sample.absence, since=sample.at_us or None)


def shared_parts(visit: Visit, topic: str, sample: Sample, render: Callable[[Links, Sample], Parts]) -> Parts:
    """The parts of a topic, rendered once for all readers. They depend on the links and the sample only."""
    links = Links(root=visit.root, cluster=visit.cluster)
    known = visit.served.parts.get((topic, links))
    if known is None or known[0] != sample.version:
        known = visit.served.parts[topic, links] = sample.version, render(links, sample)
    return known[1]
