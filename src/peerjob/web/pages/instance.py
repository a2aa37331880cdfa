"""One instance: its state and why, its timeline, arguments, result, attempts, logs and progress."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

from starlette.responses import PlainTextResponse, Response

from peerjob.handles.entries import HistoryEntry, LogEntry
from peerjob.handles.instance import Instance
from peerjob.handles.observing import observe
from peerjob.handles.reasons import why_instance
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.errors import DecodeError, OptionError, RemoteError, UnknownInstanceError
from peerjob.model.printable import printable
from peerjob.model.state import Level, State
from peerjob.web.children import Children, children_of
from peerjob.web.durations import took
from peerjob.web.feeds import MAX_LINES, Chunk, Feed
from peerjob.web.flow_tree import tree
from peerjob.web.links import Links
from peerjob.web.live import Parts, banner, event, live
from peerjob.web.page import page
from peerjob.web.patience import ABSENT, PATIENCE, describe_absence
from peerjob.web.rendering import ago, due
from peerjob.web.samples import INTERVAL
from peerjob.web.timeline import timeline
from peerjob.web.values import ShownValue, arguments_text, pretty, result_text, shown_value, traceback_text
from peerjob.web.visit import Shown, Visit

MAX_BEFORE = 500
"""The most queued instances that the page counts to tell the position in the queue."""
MAX_READ = 20_000
"""The most log lines that a page reads; the store keeps 1,000 unless a node sets another limit."""
MAX_CHAIN = 10
"""The most retries that the page follows back."""
WHY_SECONDS = 5.0
"""Seconds after which a live view explains an unchanged state again."""
PAUSE = 0.1
"""Seconds between two events of a live view."""
PARTS_SECONDS = 1.0
"""Seconds for which the parts of an unchanged instance are shared by its views."""
FLOOD_SECONDS = 3.0
"""The most seconds between two reports of lines, if so many come that each report would be a whole page."""
LEVELS = tuple(level.name for level in (Level.DEBUG, Level.INFO, Level.WARN, Level.ERROR))


async def instance(visit: Visit) -> Shown:
    """The page."""
    instance = await visit.manager.lookup_instance(visit.path_value("id"))
    lines, count = await _lines(visit, instance)
    level, text = visit.param("level").upper(), visit.param("text")

    def wanted(line: LogEntry) -> bool:
        return (not level or line.level.name == level) and text.casefold() in line.message.casefold()

    children = _children(visit, instance, await children_of(visit.manager, instance))
    return Shown(
        "instance.html",
        instance=instance,
        parts={**_parts(visit, instance, await _reasons(visit, instance)), "children": children},
        arguments=shown_value(arguments_text(instance)),
        chain=await _chain(visit, instance),
        steps=await _steps(visit, instance),
        lines=list(filter(wanted, lines)),
        older=max(0, count - len(lines)),
        levels=LEVELS,
        level=level,
        text=text,
    )


def _parts(visit: Visit, instance: Instance[Any], reasons: list[str]) -> Parts:
    history = [HistoryEntry(instance.id, instance.kind, entry) for entry in instance.record.history]
    shown = due if instance.state is State.SCHEDULED else ago

    def render(template: str, **values: Any) -> str:
        return visit.templates.text(template, now=visit.now, visit=visit, instance=instance, **values)

    return {
        "state": render("instance_state.html", progress=_progress(instance), reasons=reasons),
        "due": "when its wait ends" if instance.waits_for else str(shown(instance.due_at, visit.now)),
        "took": render("instance_took.html", took=took(instance.record.history, visit.now)),
        "timeline": timeline(history, visit.now),
        "history": render("instance_history.html", history=history, traceback=shown_value(traceback_text(instance))),
        "result": render("instance_result.html", result=shown_value(result_text(instance))),
    }


def _children(visit: Visit, instance: Instance[Any], children: Children | None) -> str:
    drawing = "" if children is None else tree(children.parts, visit)
    return visit.templates.text(
        "children.html", now=visit.now, visit=visit, instance=instance, children=children, drawing=drawing
    )


def _actions(visit: Visit, instance: Instance[Any]) -> str:
    return visit.templates.text("instance_actions.html", now=visit.now, visit=visit, instance=instance)


async def _reasons(visit: Visit, instance: Instance[Any]) -> list[str]:
    try:
        reasons = why_instance(await observe(visit.manager, instance, visit.now, max_searched=MAX_BEFORE))
        # the bar shows the progress, and is always the latest
        return [reason for reason in reasons if not reason.startswith("it reports ")]
    except DecodeError as error:
        return [f"a part of its record cannot be read: {error}"]


def _progress(instance: Instance[Any]) -> Any:
    try:
        return instance.progress
    except DecodeError:
        return None


async def _lines(visit: Visit, instance: Instance[Any]) -> tuple[deque[LogEntry], int]:
    lines, count = deque[LogEntry](maxlen=MAX_LINES), 0
    async with AsyncClosing(_read(visit, instance)) as read:
        async for line in read:
            lines.append(line)
            count += 1
            if count >= MAX_READ:
                break
    return lines, count


async def _read(visit: Visit, instance: Instance[Any]) -> AsyncGenerator[LogEntry]:
    async for line in visit.manager.iter_logs(instance.id):
        yield LogEntry(instance.id, instance.kind, line)


async def _chain(visit: Visit, instance: Instance[Any]) -> list[tuple[str, str]]:
    """The instances that this one repeats, the latest first: id, and state or "removed"."""
    chain: list[tuple[str, str]] = []
    old = _repeated(instance)
    while old is not None and len(chain) < MAX_CHAIN:
        try:
            instance = await visit.manager.lookup_instance(old)
        except UnknownInstanceError:
            return [*chain, (str(old), "removed")]
        chain.append((instance.id, str(instance.state)))
        old = _repeated(instance)
    return chain


async def _steps(visit: Visit, instance: Instance[Any]) -> list[tuple[str, ShownValue]]:
    """The steps and signals, with their values as text."""
    try:
        steps = await visit.manager.steps(instance)
    except RemoteError:  # a node of an older release knows no steps
        return []
    return [(name, shown_value(pretty(value))) for name, value in steps.items()]


def _repeated(instance: Instance[Any]) -> UUID | None:
    try:
        return instance.retry_of
    except DecodeError:
        return None


# -- whole values ----------------------------------------------------------------------------------------------------


async def download(visit: Visit) -> Response:
    """A whole value as a text file."""
    instance, what = await visit.manager.lookup_instance(visit.path_value("id")), visit.path_value("what")
    match what:
        case "arguments":
            text = arguments_text(instance)
        case "result":
            text = result_text(instance)
        case "traceback":
            text = traceback_text(instance)
        case "log":
            async with AsyncClosing(_read(visit, instance)) as read:
                text = "\n".join([_line_text(line) async for line in read])
        case _:
            raise OptionError("value", what, "arguments, result, traceback or log")
    headers = {"Content-Disposition": f'attachment; filename="{instance.id}-{what}.txt"'}
    return PlainTextResponse(printable(text, lines=True), headers=headers)


def _line_text(line: LogEntry) -> str:
    return f"{line.timestamp.isoformat()} {line.level.name} {line.node} {line.message}"


# -- the live view ---------------------------------------------------------------------------------------------------


async def live_instance(visit: Visit) -> Response:
    """The live view of the page."""
    await visit.viewers.wait_for_others()
    instance = await visit.manager.lookup_instance(visit.path_value("id"))
    return live(visit, _events(visit, instance.id))


async def _events(visit: Visit, id: str) -> AsyncGenerator[str | bytes]:
    sent: dict[str, str] = {}
    chunk_count, count, reported = 0, 0, visit.manager.clock.elapsed()
    shown, actions, waits = None, "", False
    async with visit.served.feeds.open(id) as feed:
        while True:
            await visit.viewers.wait_for_others()
            ended, instance, chunks = feed.ended, feed.instance, list[Chunk]()
            parts = {"banner": banner(visit, await visit.served.samples.current())}
            if instance is not None:
                if instance is not shown:
                    # the forms are those of this session, so they are no part of a page that others may be shown
                    shown, actions = instance, _actions(visit, instance)
                parts |= {**await _shared(visit, feed, instance), "actions": actions}
                waits, count = feed.count - count >= MAX_LINES, feed.count
                if ended or not waits or visit.manager.clock.elapsed() - reported > FLOOD_SECONDS:
                    # the feed begins with all lines, so that none is missing between the page and its live view
                    parts["log"] = ""
                    chunks, chunk_count = feed.chunks_since(chunk_count)
                    reported = visit.manager.clock.elapsed()
            news = {id: text for id, text in parts.items() if sent.get(id) != text}
            sent.update(news)
            yield event("parts", news) if news else ""
            for chunk in chunks:
                await visit.viewers.wait_for_others()
                yield chunk.event(partial(_lines_event, visit))
            if ended:
                yield event("end", "") if instance is not None and instance.state.is_final else ""
                return
            if not waits:
                await feed.news(INTERVAL)
            # one event for many changes
            await asyncio.sleep(PAUSE)


async def _shared(visit: Visit, feed: Feed, instance: Instance[Any]) -> Parts:
    """The parts of the page, which all views share."""
    clock, explained, links = visit.manager.clock, feed.explained, Links(root=visit.root, cluster=visit.cluster)
    async with explained.lock:
        if clock.elapsed() - explained.at > WHY_SECONDS or str(instance.state) != explained.state:
            explained.reasons = await _reasons_now(visit, instance)
            with suppress(*ABSENT):
                async with asyncio.timeout(PATIENCE):
                    explained.children = await children_of(visit.manager, instance)
            explained.at, explained.state = clock.elapsed(), str(instance.state)
    known, reasons = explained.parts.get(links), explained.reasons
    if (
        known is not None
        and known[0] is instance
        and known[1] is reasons
        and clock.elapsed() - known[2] < PARTS_SECONDS
    ):
        return known[3]
    drawn = explained.drawn.get(links)
    if drawn is None or drawn[0] is not explained.children:
        drawn = explained.drawn[links] = explained.children, _children(visit, instance, explained.children)
    parts = {**_parts(visit, instance, reasons), "children": drawn[1]}
    explained.parts[links] = instance, reasons, clock.elapsed(), parts
    return parts


async def _reasons_now(visit: Visit, instance: Instance[Any]) -> list[str]:
    try:
        async with asyncio.timeout(PATIENCE):
            return await _reasons(visit, instance)
    except ABSENT as error:
        return [describe_absence(error)]


def _lines_event(visit: Visit, lines: list[LogEntry]) -> str:
    return event("lines", visit.templates.text("log_lines.html", now=visit.now, lines=lines))


ROUTES = (
    page("/instances/{id}", instance),
    page("/instances/{id}/{what}", download),
    page("/live/instances/{id}", live_instance),
)
