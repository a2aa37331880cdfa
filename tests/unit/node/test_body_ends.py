"""How a body ends after a cancellation: for each reason, each way to end, each place to run, informed or not."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from peerjob import INJECTED, Context, Instance, Job, Node, SystemClock
from peerjob.handles.context import Reason
from peerjob.node.body.processes import _BodyRun  # pyright: ignore[reportPrivateUsage]
from peerjob.node.runtime import NodeRuntime
from peerjob.testing import running_node
from support import bodies
from support.factories import ending_of, lines_of, shared_url
from support.waiting import until

WAYS = list(bodies.ENDINGS)
NODE_REASONS: list[Reason] = ["drain", "lost"]
NOTES = {"drain": "node stopped", "lost": "node lost contact with the store"}

# what becomes of a body that ends by itself
PLAIN = {
    "return": "Completed",
    "finished": "Completed",
    "exception": "Scheduled: retry 1 in 1m",
    "group": "Scheduled: retry 1 in 1m",
    "cancelled": "Scheduled: retry 1 in 1m",
    "fail": "Terminated",
    "retry": "Scheduled: retry 1 in 2m",
    "snooze": "Scheduled: snoozed for 3m",
}


def expected(way: str, reason: Reason, *, informed: bool) -> str:
    """The last entry of the history."""
    if reason == "user":
        return "Cancelled: cancelled by user"
    if reason == "timeout":
        return PLAIN["snooze"] if way == "snooze" else "Scheduled: timed out; retry 1 in 1m"
    if informed and way in ("return", "exception", "group", "cancelled"):
        return f"Scheduled: {NOTES[reason]}"
    return PLAIN[way]


class Bench:
    """A node with one kind, which claims it once and not again."""

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def runtime(self) -> NodeRuntime:
        return self.node._need_runtime()  # pyright: ignore[reportPrivateUsage]

    async def start(self, body: Any, *args: Any, run_in: Any = "auto") -> Instance[Any]:
        job = Job("body", body, max_retries=1, backoff=60, run_in=run_in)
        self.node.register(job)
        instance = await self.node.schedule(job, *args)

        async def begun() -> bool:
            return any(run.started_at is not None for run in self.runtime.pool.runs())

        await until(begun)
        self.node.unregister("body")
        return instance

    def ask(self, reason: Reason) -> None:
        self.runtime.pool.cancel(reason)

    async def end_of(self, instance: Instance[Any]) -> str:
        async def over() -> bool:
            return not self.runtime.pool.runs() and not self.runtime.in_flight.unacknowledged

        await until(over)
        return ending_of((await instance.history())[-1])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running_node(store=shared_url(), clock=SystemClock(), workers=1) as node:
        yield Bench(node)


async def attempts_of(instance: Instance[Any]) -> int:
    return (await instance.refresh()).attempts


def counted(end: str) -> int:
    return int("node" not in end and "snoozed" not in end)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reason", ["drain", "lost", "timeout"])
async def test_an_async_body_that_must_end(bench: Bench, reason: Reason, way: str) -> None:
    begun = asyncio.Event()

    async def body() -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return bodies.ends(way)

    instance = await bench.start(body)
    await begun.wait()
    bench.ask(reason)
    end = await bench.end_of(instance)
    assert end == expected(way, reason, informed=True)
    assert await attempts_of(instance) == counted(end)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reason", ["drain", "lost", "timeout"])
async def test_an_async_body_to_which_the_cancellation_is_still_to_come(bench: Bench, reason: Reason, way: str) -> None:
    go_on = asyncio.Event()

    async def body() -> Any:
        await go_on.wait()
        bench.ask(reason)
        return bodies.ends(way)

    instance = await bench.start(body)
    go_on.set()
    end = await bench.end_of(instance)
    assert end == expected(way, reason, informed=False)
    assert await attempts_of(instance) == counted(end)


def raises_if_cancelled(context: Context) -> bool:
    with pytest.raises(asyncio.CancelledError):
        context.raise_if_cancelled()
    return True


READS: dict[str, Callable[[Context], object]] = {
    "cancelled": lambda context: context.cancelled,
    "reason": lambda context: context.reason,
    "wait": lambda context: context.wait(60),
    "raise_if_cancelled": raises_if_cancelled,
}


class Threaded:
    """A sync body that ends when the test lets it, after it has looked at its context, or has not."""

    def __init__(self, way: str, read: str | None) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._way, self._read = way, read

    def __call__(self, context: Context = INJECTED) -> Any:
        assert not context.cancelled  # too early, so the body is not informed
        self.begun.set()
        self.go_on.wait(60)
        if self._read is not None:
            assert READS[self._read](context)
        return bodies.ends(self._way)

    async def asked_to_end(self, bench: Bench, reason: Reason) -> str:
        instance = await bench.start(self)
        assert await asyncio.to_thread(self.begun.wait, 60)
        if reason == "user":
            assert await instance.cancel()
        else:
            bench.ask(reason)
        self.go_on.set()
        end = await bench.end_of(instance)
        assert await attempts_of(instance) == counted(end)
        return end


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reason", ["drain", "lost", "user", "timeout"])
@pytest.mark.parametrize("informed", [True, False], ids=["informed", "not informed"])
async def test_a_body_in_a_thread(bench: Bench, informed: bool, reason: Reason, way: str) -> None:
    end = await Threaded(way, "cancelled" if informed else None).asked_to_end(bench, reason)
    assert end == expected(way, reason, informed=informed)


@pytest.mark.parametrize("read", list(READS))
async def test_each_way_to_look_tells_a_body_in_a_thread(bench: Bench, read: str) -> None:
    assert await Threaded("return", read).asked_to_end(bench, "drain") == "Scheduled: node stopped"


@pytest.mark.parametrize("way", WAYS)
async def test_an_async_body_that_is_cancelled_by_its_user(bench: Bench, way: str) -> None:
    begun = asyncio.Event()

    async def body() -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            bench.ask("drain")  # the first reason stays
            return bodies.ends(way)

    instance = await bench.start(body)
    await begun.wait()
    assert await instance.cancel()
    assert await bench.end_of(instance) == "Cancelled: cancelled by user"


async def begun_in(path: Path) -> None:
    await until(lambda: asyncio.to_thread(path.exists))


async def test_a_body_in_a_process_that_must_end(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However slow the machine is, a body that heeds its notice ends before it is killed."""
    monkeypatch.setattr("peerjob.node.body.processes.NOTICE", 600.0)
    for way in WAYS:
        instance = await bench.start(bodies.ends_when_cancelled, str(tmp_path / way), way, run_in="process")
        await begun_in(tmp_path / way)
        bench.ask("drain")
        assert (way, await bench.end_of(instance)) == (way, expected(way, "drain", informed=True))
        await instance.cancel()


@pytest.mark.parametrize("reason", ["lost", "timeout"])
async def test_a_body_in_a_process_that_is_killed(bench: Bench, reason: Reason, tmp_path: Path) -> None:
    instance = await bench.start(bodies.ends_when_cancelled, str(tmp_path / "begun"), "return", run_in="process")
    await begun_in(tmp_path / "begun")
    bench.ask(reason)
    assert await bench.end_of(instance) == expected("return", reason, informed=True)


async def test_a_body_in_a_process_whose_result_came_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    end = _BodyRun.end
    reasons: list[Reason] = ["drain", "lost", "timeout"]
    asked: list[Reason] = []

    def end_and_ask(running: _BodyRun, ending: Any) -> None:
        end(running, ending)
        bench.ask(asked[-1])

    monkeypatch.setattr(_BodyRun, "end", end_and_ask)
    for reason in reasons:
        for way in WAYS:
            asked.append(reason)
            bench.node.register(Job("quick", bodies.ends, max_retries=1, backoff=60, run_in="process"))
            instance = await bench.node.schedule("quick", way)

            async def claimed(instance: Instance[Any] = instance) -> bool:
                return len(await instance.history()) > 2

            await until(claimed)
            assert (way, await bench.end_of(instance)) == (way, PLAIN[way])
            await instance.cancel()


# -- what counts is the end of the body


async def test_a_child_that_takes_the_cancellation_for_its_body(bench: Bench) -> None:
    begun = asyncio.Event()

    async def part() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "half"
        return "whole"

    async def body() -> str:
        return await asyncio.create_task(part())

    instance = await bench.start(body)
    await begun.wait()
    bench.ask("drain")
    assert await bench.end_of(instance) == "Scheduled: node stopped"


async def test_a_result_that_is_given_up_is_a_warning_that_names_what_keeps_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await Threaded("return", "cancelled").asked_to_end(bench, "drain")
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert record.name == "peerjob.node"
    assert "'body'" in record.getMessage()
    assert "Finished" in record.getMessage()


@pytest.mark.parametrize("reason", NODE_REASONS)
async def test_no_processor_is_called_for_what_is_handed_back(bench: Bench, reason: Reason) -> None:
    called: list[str] = []
    begun = asyncio.Event()

    async def body() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError from None

    bench.node.register(
        Job(
            "told",
            body,
            on_terminate=lambda instance, error: called.append("on_terminate"),
            on_complete=lambda instance, result: called.append("on_complete"),
            on_state_change=lambda instance, state: called.append(str(state)),
        )
    )
    instance = await bench.node.schedule("told")
    await begun.wait()
    bench.node.unregister("told")
    bench.ask(reason)
    assert await bench.end_of(instance) == f"Scheduled: {NOTES[reason]}"
    await bench.runtime.processors.close()
    assert called == ["Created", "Scheduled", "Processing"]


async def test_lines_of_a_body_that_is_handed_back_are_kept(bench: Bench) -> None:
    begun = asyncio.Event()

    async def body(instance: Instance[Any]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            instance.log.info("saved")

    instance = await bench.start(body)
    await begun.wait()
    bench.ask("drain")
    await bench.end_of(instance)
    assert await lines_of(instance) == ["saved"]
