"""Log lines and progress of running jobs: their instance, their way to the store, and their limits."""

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from peerjob import INJECTED, Context, Instance, Job, Level, Node, Query, State
from peerjob.handles.job_log import MAX_MESSAGE, make_line
from peerjob.model.record import MAX_BATCH, Claim, LogLine
from peerjob.node.work.run import Run
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store, lines_of, running_nodes, shared_url
from support.waiting import IN_TIME, PATIENCE, until

library_log = logging.getLogger("a.library")

CLAIM = Claim(id="", kind="", fence=1, spec=b"", priority=0, due_us=0, attempts=1, crashes=0, losses=0, at_us=0)


async def test_lines_of_the_instance_s_log_are_seen_from_every_node(clock: VirtualClock) -> None:
    def work(instance: Instance[Any] = INJECTED) -> None:
        instance.log.debug("fine %s", "detail")
        instance.log.info("got %d", 5, extra={"order": 7, "path": ("a", 1)})
        instance.log.warning("careful")
        try:
            raise KeyError("missing")
        except KeyError:
            instance.log.exception("went wrong")

    async with running_nodes(clock, "worker", "looker", jobs=Job("work", work), workers=2) as (worker, looker):
        looker.unregister("work")
        instance = await worker.schedule("work")
        await drain(worker)
        found = await looker.lookup_instance(instance.id)
        lines = await found.logs()

        assert [(line.level, line.message.partition("\n")[0]) for line in lines] == [
            (Level.DEBUG, "fine detail"),
            (Level.INFO, "got 5"),
            (Level.WARN, "careful"),
            (Level.ERROR, "went wrong"),
        ]
        assert lines[1].fields == {"order": 7, "path": "('a', 1)"}
        assert "KeyError: 'missing'" in lines[3].message
        assert {(line.node, line.attempt, line.uuid) for line in lines} == {("worker", 1, instance.uuid)}
        assert [line.message for line in await found.logs(level=Level.INFO | Level.WARN)] == ["got 5", "careful"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_logging_calls_made_inside_a_job_are_captured(clock: VirtualClock, asynchronous: bool) -> None:
    library_log.setLevel(logging.INFO)

    def deep() -> None:
        library_log.info("from deep inside")
        library_log.debug("not enabled")

    async def deep_async() -> None:
        await asyncio.gather(asyncio.create_task(asyncio.sleep(1)), asyncio.to_thread(deep))

    async with running_node(Job("work", deep_async if asynchronous else deep), clock=clock) as node:
        library_log.info("outside any job")
        instance = await node.schedule("work")
        await drain(node)
        assert await lines_of(instance) == ["from deep inside"]


async def test_lines_of_neighbours_are_kept_apart(clock: VirtualClock) -> None:
    async def work(number: int) -> None:
        for step in range(5):
            await asyncio.sleep(0.3)
            library_log.warning("%d.%d", number, step)

    job = Job("work", work)
    async with running_node(job, clock=clock) as node:
        instances = await node.schedule_many(job.call(number) for number in range(10))
        await drain(node)
        for number, instance in enumerate(instances):
            assert await lines_of(instance) == [f"{number}.{step}" for step in range(5)]


async def test_a_line_is_kept_once_and_passed_on_where_that_is_wanted(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def work(instance: Instance[Any] = INJECTED) -> None:
        instance.log.info("once")

    with caplog.at_level(logging.INFO, "peerjob.job"):
        async with running_node(Job("work", work), clock=clock) as node:
            instance = await node.schedule("work")
            await drain(node)
            assert await lines_of(instance) == ["once"]
    assert caplog.messages.count("once") == 1


async def test_lines_and_progress_of_a_running_body_are_shown_soon(clock: VirtualClock) -> None:
    async def work(ctx: Context, instance: Instance[Any]) -> None:
        for step in range(1, 11):
            await asyncio.sleep(1)
            ctx.progress(step / 10, f"step {step}")
            instance.log.info("step %d", step)

    async with running_node(Job("work", work), clock=clock) as node:
        instance = await node.schedule("work")
        for step in range(1, 6):
            await clock.advance(1)
            await clock.advance(0.11 if step == 1 else 0)
            progress = (await instance.refresh()).progress
            assert progress is not None
            assert (progress.fraction, progress.message) == (step / 10, f"step {step}")
            assert len(await instance.logs()) == step
        await drain(node)
        progress = (await instance.refresh()).progress
        assert progress is not None
        assert progress.fraction == 1


@pytest.mark.parametrize("given", [-0.0002, 1.0002])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_progress_outside_its_range_ends_no_job(clock: VirtualClock, given: float, in_thread: bool) -> None:
    async def work(ctx: Context) -> str:
        for _ in range(3):
            if in_thread:
                pause = threading.Thread(target=ctx.progress, args=(given, "all"))  # has no current run
                pause.start()
                pause.join()
            else:
                ctx.progress(given, "all")
        return "done"

    async with running_node(Job("work", work), clock=clock) as node:
        instance = await node.schedule("work")
        await drain(node)
        await instance.refresh()
        assert instance.outcome() == "done"
        assert instance.to_dict()["progress"] == {"fraction": round(given), "message": "all"}
        (line,) = await instance.logs(level=Level.WARN)
        assert f"progress({given})" in line.message
        assert "fraction from 0 to 1, not percent" in line.message
        json.loads(instance.to_json())


async def test_reports_of_many_bodies_share_a_turn(clock: VirtualClock) -> None:
    async def work(ctx: Context) -> None:
        for step in range(100):
            await asyncio.sleep(0.01)
            ctx.progress(step / 100)

    flaky = flaky_store(clock)
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=50) as node:
        await node.schedule_many(node.job("work").call() for _ in range(50))
        await clock.advance(0.05)
        before = flaky.calls["turn"]
        await clock.advance(0.9)
        assert 5 <= flaky.calls["turn"] - before <= 15


async def test_lines_are_capped_per_instance_and_the_oldest_are_dropped(clock: VirtualClock) -> None:
    async def chatter(instance: Instance[Any]) -> None:
        for number in range(5_000):
            instance.log.info("line %d", number)
            if number % 500 == 0:
                await asyncio.sleep(0.2)

    async with running_node(Job("chatter", chatter), clock=clock) as node:
        instance = await node.schedule("chatter")
        await drain(node)
        lines = await lines_of(instance)
        assert len(lines) <= 1_001
        assert lines[-1] == "line 4999"


async def test_what_waits_to_be_sent_is_capped_with_a_marker(clock: VirtualClock) -> None:
    def chatter(instance: Instance[Any] = INJECTED) -> None:
        for number in range(3_000):
            instance.log.info("line %d", number)

    async with running_node(Job("chatter", chatter), clock=clock) as node:
        instance = await node.schedule("chatter")
        await drain(node)
        lines = await lines_of(instance)
        assert lines[-1] == "line 2999"
        numbers = [int(line.removeprefix("line ")) for line in lines if line.startswith("line ")]
        assert numbers == list(range(3_000 - len(numbers), 3_000))
        assert 990 <= len(numbers) <= 1_000


async def test_a_line_that_a_thread_makes_while_lines_are_sent_is_kept() -> None:
    sent = threading.Event()

    class Shown:
        def __str__(self) -> str:
            assert sent.wait(PATIENCE)
            return "shown"

    def work(instance: Instance[Any] = INJECTED) -> None:
        instance.log.info("first")
        instance.log.info("second", extra={"value": Shown()})

    async with Node("memory://", jobs=Job("work", work)) as node:
        instance = await node.schedule("work")
        await until(lambda: lines_of(instance))
        sent.set()
        await instance.result(PATIENCE)
        assert await lines_of(instance) == ["first", "second"]


async def test_a_value_whose_text_takes_long_holds_up_no_other_job() -> None:
    logged = threading.Event()

    class Shown:
        def __str__(self) -> str:
            return "in time" if logged.wait(IN_TIME) else "too late"

    def slow() -> None:
        library_log.warning("slow", extra={"value": Shown()})

    def quick() -> None:
        library_log.warning("quick")
        logged.set()

    async with Node("memory://", jobs=[Job("slow", slow), Job("quick", quick)]) as node:
        first = await node.schedule("slow")
        second = await node.schedule("quick")
        await first.result(PATIENCE)
        await second.result(PATIENCE)
        assert [line.fields for line in await first.logs()] == [{"value": "in time"}]


def test_threads_lose_and_repeat_no_line() -> None:
    """Threads add lines while the event loop takes them. Lines above the limit are counted."""
    run = Run(CLAIM, "incarnation", 0.0)
    count, threads = 20_000, 3
    lines = [make_line(0, logging.INFO, str(number), attempt=1, node="node") for number in range(count)]

    def add() -> None:
        for line in lines:
            run.add_line(line)

    adding = [threading.Thread(target=add) for _ in range(threads)]
    for thread in adding:
        thread.start()
    taken: list[str] = []
    while any(thread.is_alive() for thread in adding) or run.logs:
        taken += [line.message for line in run.take_logs()]
    dropped = [int(text.rpartition(" ")[2]) for text in taken if not text.isdigit()]
    assert sum(dropped) + len(taken) - len(dropped) == threads * count


async def test_a_long_line_is_cut(clock: VirtualClock) -> None:
    def work(instance: Instance[Any] = INJECTED) -> None:
        instance.log.info("x" * 1_000_000)

    async with running_node(Job("work", work), clock=clock) as node:
        instance = await node.schedule("work")
        await drain(node)
        (line,) = await lines_of(instance)
        assert MAX_MESSAGE <= len(line) < MAX_MESSAGE + 20


class Spoiled:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "arguments", "extra"),
    [
        ("half a character: \ud800", (), {}),
        ("%d items", ("many",), {}),
        ("spoiled %s", (Spoiled(),), {}),
        (Spoiled(), (), {}),
        ("big", (), {"number": 2**80}),
        ("negative", (), {"number": -(2**70)}),
        ("half", (), {"text": "\udfff"}),
        ("half key", (), {"\ud800": 1}),
        ("key that is no text", (), {5: 1}),
        ("spoiled field", (), {"field": Spoiled()}),
        ("not a number", (), {"number": float("nan")}),
        ("null \x00 byte", (), {}),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else None,
)
async def test_no_log_line_stops_the_queue(
    clock: VirtualClock,
    message: Any,
    arguments: tuple[Any, ...],
    extra: dict[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pytest's own handlers would put these lines into reports, which pytest-xdist cannot send
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def work(instance: Instance[Any] = INJECTED) -> str:
        instance.log.info(message, *arguments, extra=extra)
        library_log.warning(message, *arguments, extra=extra)
        return "done"

    jobs = [Job("work", work), Job("other", lambda: "fine")]
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        async with running_node(jobs, clock=clock) as node:
            instance = await node.schedule("work")
            other = await node.schedule("other")
            assert await clock.run(instance.result(), limit=60) == "done"
            assert await clock.run(other.result(), limit=60) == "fine"
            assert len(await lines_of(instance)) <= 2
    finally:
        logging.raiseExceptions = raising


@pytest.mark.parametrize(
    "text", ["half a character: \ud800", "x" * 3_000_000, "null \x00"], ids=["half", "long", "null"]
)
async def test_no_progress_text_stops_the_queue(clock: VirtualClock, text: str) -> None:
    async def work(ctx: Context) -> str:
        ctx.progress(0.5, text)
        await asyncio.sleep(1)
        ctx.progress(1.0, "fine")
        return "done"

    async with running_node(Job("work", work), Job("other", lambda: 1), clock=clock) as node:
        instance = await node.schedule("work")
        assert await clock.run((await node.schedule("other")).result(), limit=60) == 1
        assert await clock.run(instance.result(), limit=60) == "done"


async def test_lines_are_found_by_query(clock: VirtualClock) -> None:
    def work(fails: bool, instance: Instance[Any] = INJECTED) -> None:
        instance.log.info("begins")
        if fails:
            instance.log.error("fails")
            raise ValueError

    job = Job("work", work)
    async with running_node(job, clock=clock) as node:
        for fails in (False, True, False):
            await node.schedule(job, fails)
        await drain(node)

        assert [line.message for line in await node.lookup_logs()] == ["begins", "begins", "fails", "begins"]
        assert [line.message for line in await node.lookup_logs(Query(level=Level.ERROR))] == ["fails"]
        assert [line.message for line in await node.lookup_logs(Query(state=State.TERMINATED))] == ["begins", "fails"]
        page = await node.lookup_logs(Query(limit=2))
        assert len(page) == 3
        assert len(await node.lookup_logs(Query(limit=2, cursor=page.cursor))) == 1


async def test_a_detached_context_takes_lines_and_progress_and_keeps_none() -> None:
    context = Context.current()
    assert context.detached
    context.progress(0.5, "nobody sees it")
    context.log_line(logging.INFO, "nor this")
    assert context.instance is None


def test_fields_of_subclasses_of_numbers_can_be_stored() -> None:
    class Loss(float):
        pass

    class Step(int):
        pass

    line = make_line(1, 20, "step", attempt=1, node="n", fields={"loss": Loss(0.5), "step": Step(7), "on": True})
    assert [(name, type(value)) for name, value in (line.fields or {}).items()] == [
        ("loss", float),
        ("step", int),
        ("on", bool),
    ]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(line), type=LogLine) == line


async def test_what_a_processor_logs_while_its_node_stops_is_kept(clock: VirtualClock) -> None:
    """Also where the store is slow to take it."""
    url = shared_url()
    flaky = flaky_store(clock, url)

    async def work() -> int:
        await asyncio.sleep(1)
        return 7

    async def tell(instance: Instance[Any], result: int) -> None:
        await asyncio.sleep(1)
        logging.getLogger("app").warning("told %d", result)
        asyncio.get_running_loop().call_later(1, flaky.stall("turn").release)

    job = Job("work", work, on_complete=tell)
    async with running_node(job, clock=clock, store=flaky.store) as node:
        instance = await node.schedule(job)
        await clock.advance(0.5)
        await clock.run(node.stop())
    async with running_node(job, clock=clock, store=url) as node:
        assert await lines_of(await node.lookup_instance(instance.id)) == ["told 7"]


async def test_a_node_keeps_nothing_of_a_run_that_has_ended(clock: VirtualClock) -> None:
    contexts: list[Context] = []

    async def work(ctx: Context = INJECTED) -> None:
        contexts.append(ctx)

    async with running_node(Job("work", work), clock=clock) as node:
        await node.schedule("work")
        await drain(node)
        context_backend = node._need_runtime().context_backend  # pyright: ignore[reportPrivateUsage]
        assert [context_backend.runs.get(context) for context in contexts] == [None]


async def test_lines_come_in_calls_of_a_bounded_number(clock: VirtualClock) -> None:
    flaky, sizes = flaky_store(clock), list[int]()

    def counted(_: str, lines: Sequence[LogLine]) -> bool:
        sizes.append(len(lines))
        return False

    flaky.refuse(ValueError(), "add_lines", when=counted)
    async with running_node(Job("work", lambda: None), clock=clock, store=flaky.store) as node:
        instance = await node.schedule("work")
        for number in range(2 * MAX_BATCH + 1):
            node.keep_line(instance.id, logging.INFO, f"line {number}")
        await clock.advance(1)
    assert sizes == [MAX_BATCH, MAX_BATCH, 1]
