"""What a node keeps in memory: nothing of an instance that has ended, and nothing of a call that was answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from peerjob import INJECTED, Context, Depends, Instance, Job, Node, Query, Recovered, Retry, Signal
from peerjob.model.errors import PeerjobError
from peerjob.node.manager import watchers
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store
from support.kept import grown, kept

GO = Signal("go", int)
SNOOZED = set[str]()


async def note(instance: Instance[Any], argument: object) -> None:
    await asyncio.sleep(0.01)


def note_in_thread(instance: Instance[Any], argument: object) -> None:
    return


async def resource() -> Any:
    yield "resource"


async def child(number: int) -> int:
    return 2 * number


CHILD = Job("child", child, on_complete=note)


async def run(what: str, value: str = Depends(resource), context: Context = INJECTED) -> object:
    context.log_line(logging.INFO, "runs")
    match what:
        case "fails":
            raise ValueError(what)
        case "retries" if context.attempt == 1:
            raise Retry(1)
        case "snoozes" if context.id not in SNOOZED:
            SNOOZED.add(context.id)
            context.snooze(1)
        case "sleeps":
            context.progress(0.5)
            await asyncio.sleep(30)
        case "steps":
            await context.step("step", lambda: 1)
            await context.suspend("nap", 1)
            return await (await context.start("child", CHILD.call(2))).result()
        case "waits":
            return await context.wait_for(GO, timeout=30)
        case _:
            pass
    return what


RUN = Job("run", run, on_state_change=note, on_complete=note_in_thread, max_retries=1, backoff=0.1, timeout=20)
PLAIN = Job("plain", lambda: 1)
RECOVERS = Job("recovers", lambda: 1 / 0, on_terminate=lambda _instance, _error: Recovered(1))
WHATS = ("fails", "retries", "snoozes", "sleeps", "steps", "waits", "completes")


async def use(node: Node, clock: VirtualClock) -> None:
    """Let the node do one of each: runs of every end, waits, streams and what callers ask."""
    query = Query(kind="run")
    watching = asyncio.ensure_future(_watch(node, query))
    await clock.settle()
    instances = [await node.schedule(RUN, what) for what in WHATS]
    await node.schedule_many([PLAIN.call(), PLAIN.call(), RECOVERS.call()])
    asked = [
        asyncio.ensure_future(_ignoring_errors(work))
        for instance in instances
        for work in (instance.wait(60), _read(instance), node.wait_final(instance.id, 0.01))
    ]
    await clock.advance(2)
    await node.cancel_instance(instances[WHATS.index("sleeps")].id)
    await node.signal(instances[WHATS.index("waits")], GO, 1)
    await clock.advance(1)
    await node.resize_workers(2)
    await node.resize_workers(10)
    await drain(node)
    await clock.run(asyncio.wait(asked))
    watching.cancel()
    await asyncio.wait([watching])
    await clock.advance(120)  # the sample of a minute is sent after it


async def _watch(node: Node, query: Query) -> None:
    async for _ in node.watch(query):
        pass


async def _read(instance: Instance[Any]) -> None:
    async for _ in instance.watch():
        pass


async def _ignoring_errors(work: Any) -> None:
    with contextlib.suppress(PeerjobError, TimeoutError):
        await work


async def test_a_node_keeps_nothing_of_what_has_ended(clock: VirtualClock) -> None:
    async with running_node(RUN, PLAIN, CHILD, RECOVERS, clock=clock) as node:
        for _ in range(2):
            await use(node, clock)
        before = kept(node)
        for _ in range(2):
            await use(node, clock)
        assert grown(before, kept(node)) == {}


async def test_what_a_node_remembers_for_its_streams_has_bounds(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "MAX_FINAL", 3)
    flaky = flaky_store(clock)
    async with running_node(PLAIN, clock=clock, store=flaky.store) as node:
        watching = asyncio.ensure_future(_watch(node, Query(kind="plain")))
        await clock.advance(1)
        for _ in range(5):
            await clock.run((await node.schedule(PLAIN)).wait())
            await clock.advance(0.1)
        assert kept(node)["Watchers.final"] == 3
        monkeypatch.setattr(watchers, "MAX_WAITING", 4)
        flaky.stall("get", "lookup")
        await node.schedule_many(PLAIN.call() for _ in range(6))
        await clock.advance(2)
        assert kept(node)["Watchers.changed"] == 4
        flaky.heal()
        watching.cancel()
        await asyncio.wait([watching])
