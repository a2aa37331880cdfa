"""on_complete, on_terminate and on_state_change: when they are called, and what they may and may not change."""

import asyncio
import functools
import threading
from typing import Any

import pytest

from peerjob import INJECTED, Context, Instance, Job, JobFailed, JobTimedOut, Level, Recovered, State, SystemClock
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store, lines_of, running_nodes, shared_url, states_of
from support.waiting import until


def broken() -> object:
    raise ValueError("broken")


async def test_on_complete_gets_the_result_after_it_is_stored(clock: VirtualClock) -> None:
    seen: list[Any] = []

    async def on_complete(instance: Instance[int], result: int) -> None:
        stored = await instance.refresh()
        seen.append((result, stored.state, await stored.result()))

    async with running_node(Job("work", lambda: 42, on_complete=on_complete), clock=clock) as node:
        await node.schedule("work")
        await drain(node)
        await clock.settle()
        assert seen == [(42, State.COMPLETED, 42)]


async def test_body_and_processors_see_the_tags_and_the_key(clock: VirtualClock) -> None:
    seen: list[Any] = []

    async def body(context: Context = INJECTED) -> None:
        assert context.instance is not None
        seen.append((context.instance.tags, context.instance.key))
        raise ValueError

    def note(instance: Instance[Any], _: object) -> None:
        seen.append((instance.tags, instance.key))

    job = Job("work", body, tags=["a", "b"], key="k", on_terminate=note, on_state_change=note)
    async with running_node(job, clock=clock) as node:
        await clock.run((await node.schedule("work")).wait())
        await drain(node)
        await clock.settle()
    assert seen == [(("a", "b"), "k")] * 6


@pytest.mark.parametrize("kind", ["sync", "async", "partial", "coroutine of a lambda"])
async def test_processors_may_be_sync_or_async(clock: VirtualClock, kind: str) -> None:
    seen: list[int] = []
    thread = threading.get_ident()

    def sync(instance: Instance[Any], result: object) -> None:
        seen.append(threading.get_ident())

    async def asynchronous(instance: Instance[Any], result: object) -> None:
        await asyncio.sleep(1)
        seen.append(threading.get_ident())

    callback: Any = {
        "sync": sync,
        "async": asynchronous,
        "partial": functools.partial(sync),
        "coroutine of a lambda": lambda *seen: asynchronous(seen[0], seen[1]),
    }[kind]
    async with running_node(Job("work", lambda: 1, on_complete=callback), clock=clock) as node:
        await clock.run((await node.schedule("work")).wait())
        await clock.advance(2)
        assert len(seen) == 1
        assert (seen[0] == thread) == (kind in ("async", "coroutine of a lambda"))


async def test_on_terminate_that_says_nothing_changes_nothing(clock: VirtualClock) -> None:
    seen: list[Any] = []

    def on_terminate(instance: Instance[Any], error: BaseException) -> None:
        seen.append((type(error).__name__, str(error), instance.attempts))

    async with running_node(Job("work", broken, max_retries=2, on_terminate=on_terminate), clock=clock) as node:
        instance = await node.schedule("work")
        with pytest.raises(JobFailed, match="broken"):
            await clock.run(instance.result())
        assert seen == [("ValueError", "broken", attempt) for attempt in (1, 2, 3)]


async def test_on_terminate_may_turn_a_failure_into_a_success(clock: VirtualClock) -> None:
    completed: list[Any] = []
    job = Job(
        "work",
        broken,
        max_retries=5,
        on_terminate=lambda instance, error: Recovered("instead"),
        on_complete=lambda instance, result: completed.append(result),
    )
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule(job)
        assert await clock.run(instance.result()) == "instead"
        await clock.settle()
        assert (instance.attempts, completed) == (1, ["instead"])
        assert instance.error is None


async def test_on_terminate_may_recover_from_a_timeout(clock: VirtualClock) -> None:
    async def sleep() -> object:
        return await asyncio.sleep(60, "slept")

    job = Job("sleep", sleep, timeout=1, on_terminate=lambda instance, error: Recovered(type(error).__name__))
    async with running_node(job, clock=clock) as node:
        assert await clock.run((await node.schedule(job)).result()) == "JobTimedOut"


async def test_on_terminate_may_put_another_error_in_its_place(clock: VirtualClock) -> None:
    def returns(instance: Instance[Any], error: BaseException) -> BaseException:
        return LookupError("returned")

    def raises(instance: Instance[Any], error: BaseException) -> None:
        raise LookupError("raised") from error

    for callback, message in ((returns, "returned"), (raises, "raised")):
        job = Job("work", broken, on_terminate=callback)
        async with running_node(job, clock=clock) as node:
            with pytest.raises(JobFailed, match=message) as caught:
                await clock.run((await node.schedule(job)).result())
            assert caught.value.type == "LookupError"


async def test_the_error_that_on_terminate_gives_decides_whether_to_retry(clock: VirtualClock) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise ValueError

    job = Job(
        "work", work, max_retries=5, no_retry_on=LookupError, on_terminate=lambda instance, error: LookupError("final")
    )
    async with running_node(job, clock=clock) as node:
        await node.schedule(job)
        await drain(node)
        assert len(runs) == 1


async def test_on_terminate_may_not_make_a_timeout_of_its_own(clock: VirtualClock) -> None:
    async def sleep() -> None:
        await asyncio.sleep(60)

    job = Job("sleep", sleep, timeout=1, on_terminate=lambda instance, error: error)
    async with running_node(job, clock=clock) as node:
        with pytest.raises(JobTimedOut):
            await clock.run((await node.schedule(job)).result())


async def test_on_state_change_sees_every_state_in_order(clock: VirtualClock) -> None:
    seen: list[str] = []
    runs: list[int] = []

    def work() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError
        return "done"

    def on_state_change(instance: Instance[Any], state: State) -> None:
        seen.append(str(state))

    job = Job("work", work, max_retries=1, on_state_change=on_state_change)
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule(job)
        await clock.run(instance.wait())
        await clock.advance(1)
        assert seen == await states_of(instance)
        assert seen == ["Created", "Scheduled", "Processing", "Scheduled", "Processing", "Completed"]


async def test_on_state_change_of_a_cancel_is_called_on_the_cancelling_node(clock: VirtualClock) -> None:
    seen: list[tuple[str, str]] = []

    def on_state_change(instance: Instance[Any], state: State) -> None:
        seen.append((instance.id, str(state)))

    def later() -> int:
        return 1

    job = Job("later", later, after=60)
    async with running_nodes(clock, "a", "b", jobs=job) as (a, b):
        by_definition = await a.schedule(Job("later", later, after=60, on_state_change=on_state_change))
        by_schedule = await a.schedule(job.with_options(on_state_change=on_state_change))
        await clock.settle()
        seen.clear()
        await b.cancel_instance(by_schedule.id)
        await clock.settle()
        assert seen == [(by_schedule.id, "Cancelled")]
        b.register(Job("later", later, on_state_change=on_state_change))
        await b.cancel_instance(by_definition.id)
        await clock.settle()
        assert seen[1:] == [(by_definition.id, "Cancelled")]


@pytest.mark.parametrize("which", ["on_complete", "on_terminate", "on_state_change"])
async def test_one_that_raises_is_logged_on_the_instance_and_changes_nothing(clock: VirtualClock, which: Any) -> None:
    def fail(instance: Instance[Any], _: object) -> None:
        raise RuntimeError("processor is broken")

    def work() -> str:
        if which == "on_terminate":
            raise ValueError("body is broken")
        return "done"

    processor: dict[str, Any] = {which: fail}
    job = Job("work", work, **processor)
    async with running_node(job, clock=clock) as node:
        instance = await node.schedule(job)
        await clock.run(instance.wait())
        await clock.advance(2)

        assert any("RuntimeError: processor is broken" in line for line in await lines_of(instance))
        assert (await instance.refresh()).state is (State.TERMINATED if which == "on_terminate" else State.COMPLETED)
        assert await clock.run((await node.schedule(Job("other", lambda: 1))).cancel())


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
async def test_the_node_survives_any_error_of_a_processor(clock: VirtualClock, error: BaseException) -> None:
    async def fail(instance: Instance[Any], _: object) -> None:
        raise error

    job = Job("work", lambda: 1, on_complete=fail, on_state_change=fail)
    failing = Job("failing", broken, on_terminate=fail)
    async with running_node(job, failing, clock=clock) as node:
        done, failed = await node.schedule(job), await node.schedule(failing)
        await clock.run(done.wait(), limit=60)
        await clock.run(failed.wait(), limit=60)
        await clock.advance(2)
        assert (done.state, failed.state) == (State.COMPLETED, State.TERMINATED)
        assert await clock.run((await node.schedule(job)).result()) == 1


async def test_they_may_log_and_use_the_instance(clock: VirtualClock) -> None:
    following = Job("following", lambda x: x + 1)

    async def on_complete(instance: Instance[Any], result: int) -> None:
        instance.log.info("result is %d", result)

    async with running_node(Job("work", lambda: 1, on_complete=on_complete), following, clock=clock) as node:
        instance = await node.schedule("work")
        await drain(node)
        await clock.advance(1)
        assert await lines_of(instance) == ["result is 1"]


async def test_a_node_that_stops_tells_the_processors_of_its_last_jobs(clock: VirtualClock) -> None:
    results: list[int] = []

    async def work(number: int) -> int:
        await asyncio.sleep(2)
        return number

    def on_complete(instance: Instance[Any], result: int) -> None:
        results.append(result)
        instance.log.info("told")

    job = Job("work", work, on_complete=on_complete)
    async with running_nodes(clock, "a", "b", jobs=job, workers=5) as (a, b):
        b.unregister("work")
        instances = await a.schedule_many(job.call(number) for number in range(5))
        await clock.advance(1)
        await clock.run(a.stop(grace=5))

        assert sorted(results) == [0, 1, 2, 3, 4]
        for instance in instances:
            found = await b.lookup_instance(instance.id)
            assert found.state is State.COMPLETED
            assert await lines_of(found) == ["told"]


async def test_processors_given_per_schedule_travel_by_name(clock: VirtualClock) -> None:
    async with running_nodes(clock, "web", "worker", jobs=Job("work", lambda: 7)) as (web, _):
        instance = await web.schedule(web.job("work").with_options(on_complete=log_result))
        await drain(web)
        await clock.advance(1)
        assert await lines_of(instance) == ["logged 7"]


def log_result(instance: Instance[Any], result: object) -> None:
    instance.log.info("logged %s", result)


async def test_a_processor_that_never_returns_does_not_keep_the_node() -> None:
    leave, called = threading.Event(), threading.Event()

    def hang(instance: Instance[Any], result: object) -> None:
        called.set()
        leave.wait(60)

    async with running_node(Job("work", lambda: 1, on_complete=hang), clock=SystemClock()) as node:
        node._need_runtime().processors.patience = 0.05  # pyright: ignore[reportPrivateUsage]
        await node.schedule("work")
        assert await asyncio.to_thread(called.wait, 60)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(one.daemon for one in threading.enumerate() if one.name.startswith("peerjob"))
    leave.set()


@pytest.mark.parametrize("is_async", [True, False])
async def test_one_that_hangs_shows_as_stuck_and_is_given_up(monkeypatch: pytest.MonkeyPatch, is_async: bool) -> None:
    monkeypatch.setattr("peerjob.node.work.run.STUCK_AFTER", 0.05)
    monkeypatch.setattr("peerjob.node.work.processors.LIMIT", 0.5)
    leave = threading.Event()

    async def hang(instance: Instance[Any], error: BaseException) -> None:
        await asyncio.Event().wait()

    def hang_in_a_thread(instance: Instance[Any], error: BaseException) -> None:
        leave.wait(60)

    job = Job("work", broken, on_terminate=hang if is_async else hang_in_a_thread)
    async with running_node(job, clock=SystemClock(), workers=1) as node:
        instance = await node.schedule(job)
        try:

            async def stuck() -> bool:
                return node.workers()[0].stuck

            await until(stuck)
            with pytest.raises(JobFailed, match="broken"):
                await instance.result(timeout=60)
        finally:
            leave.set()
        (line,) = await lines_of(instance)
        assert "was given up" in line
        assert "longer than 0.5 s" in line


@pytest.mark.parametrize("name", ["on_complete", "on_state_change", "on_terminate"])
async def test_one_that_is_given_up_is_cancelled(clock: VirtualClock, name: str) -> None:
    began, ended = list[float](), list[float]()

    async def hang(instance: Instance[Any], _: object) -> None:
        began.append(clock.elapsed())
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(clock.elapsed())

    body: Any = broken if name == "on_terminate" else lambda: 42
    options: dict[str, Any] = {name: hang}
    async with running_node(Job("work", body, **options), clock=clock) as node:
        await node.schedule("work")
        await clock.advance(300)
        assert began
        assert ended == [pytest.approx(at + 60, abs=0.1) for at in began]


async def test_threads_that_hang_do_not_keep_other_processors_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.node.work.processors.LIMIT", 0.1)
    leave = threading.Event()
    results: list[int] = []

    def on_complete(instance: Instance[Any], result: int) -> None:
        if result < 6:
            leave.wait(60)
        results.append(result)

    job = Job("work", lambda number: number, on_complete=on_complete)
    async with running_node(job, clock=SystemClock(), workers=1) as node:
        try:
            for number in range(6):
                await (await node.schedule(job, number)).result(timeout=60)
            await (await node.schedule(job, 7)).result(timeout=60)

            async def last_is_called() -> bool:
                return results == [7]

            await until(last_is_called)
        finally:
            leave.set()


async def test_lines_of_every_state_change_are_kept(clock: VirtualClock) -> None:
    def on_state_change(instance: Instance[Any], state: State) -> None:
        instance.log.info("now %s", state)

    def fail() -> None:
        raise ValueError

    async def lines(instance: Instance[Any]) -> list[str]:
        return [line.message.removeprefix("now ") for line in await instance.logs()]

    url, job = shared_url(), Job("fail", fail, max_retries=1, on_state_change=on_state_change)
    async with (
        running_node(job, store=url, clock=clock, workers=0, name="gateway") as gateway,
        running_node(job, store=url, clock=clock, name="worker"),
    ):
        failed = await gateway.schedule(job)
        queued = await gateway.schedule(job.with_options(after="1h"))
        await clock.advance(10)
        await queued.cancel()
        await clock.advance(10)
        # two nodes write, so lines may be stored in another order than that of their times
        assert sorted(await lines(failed)) == sorted(str(entry.state) for entry in await failed.history())
        assert await lines(queued) == ["Created", "Scheduled", "Cancelled"]


async def test_a_line_about_the_start_is_kept_when_the_body_has_ended(clock: VirtualClock) -> None:
    results, flaky = asyncio.Event(), flaky_store(clock)

    async def on_state_change(instance: Instance[Any], state: State) -> None:
        await asyncio.sleep(1)
        if state is State.PROCESSING:
            results.set()
            await asyncio.sleep(1)
        instance.log.info("%s", state)

    async def work() -> None:
        flaky.slow(5, "turn")
        async with asyncio.timeout(30):
            await results.wait()

    async with running_node(Job("work", work, on_state_change=on_state_change), clock=clock, store=flaky.store) as node:
        instance = await node.schedule("work")
        await clock.run(instance.wait())
        await clock.advance(10)
        assert await lines_of(instance) == ["Created", "Scheduled", "Processing", "Completed"]


async def test_lines_are_read_in_the_order_of_their_times(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    stalled = flaky.stall("add_lines", times=1)

    def work(instance: Instance[Any] = INJECTED) -> None:
        instance.log.info("inside")

    async with running_node(Job("work", work), clock=clock, store=flaky.store) as node:
        instance = await node.schedule(node.job("work").with_options(after=1))
        instance.log.info("before")
        await clock.run(instance.result())
        stalled.release()
        await clock.advance(1)
        assert await lines_of(instance) == ["before", "inside"]


async def test_a_handle_keeps_lines_from_outside_the_run(clock: VirtualClock) -> None:
    async with running_node(Job("quick", lambda: 1), clock=clock) as node:
        instance = await node.schedule("quick")
        await clock.run(instance.result())
        instance.log.warning("looked at by hand", extra={"ticket": 7})
        await clock.advance(1)
        (line,) = await instance.logs()
        assert (line.message, line.level, line.fields) == ("looked at by hand", Level.WARN, {"ticket": 7})


async def test_on_terminate_is_called_after_the_callbacks_for_the_start(clock: VirtualClock) -> None:
    seen: list[str] = []

    async def on_state_change(instance: Instance[Any], state: State) -> None:
        await asyncio.sleep(1)
        seen.append(str(state))

    def on_terminate(instance: Instance[Any], error: BaseException) -> BaseException:
        seen.append("on_terminate")
        return error

    job = Job("broken", broken, on_state_change=on_state_change, on_terminate=on_terminate)
    async with running_node(job, clock=clock) as node:
        await node.schedule("broken")
        await clock.advance(30)
        assert seen == ["Created", "Scheduled", "Processing", "on_terminate", "Terminated"]


async def test_a_cancelled_call_ends_as_cancelled_and_not_with_an_error(clock: VirtualClock) -> None:
    """`asyncio.run` reports each task that ends with an error when it cancels all tasks."""

    async def hang(instance: Instance[Any], result: object) -> None:
        await asyncio.Event().wait()

    async with running_node(Job("work", lambda: 1, on_complete=hang), clock=clock) as node:
        await node.schedule("work")
        await clock.advance(2)
        (call,) = node._need_runtime().processors._calls  # pyright: ignore[reportPrivateUsage]
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()


async def test_the_node_that_takes_back_an_instance_tells_its_new_state(clock: VirtualClock) -> None:
    seen: list[tuple[str, State]] = []

    async def sleep() -> None:
        await asyncio.sleep(1000)

    def note(instance: Instance[Any], state: State) -> None:
        seen.append((instance.id, state))

    url = shared_url()
    flaky = flaky_store(clock, url)
    told = Job("sleep", sleep, on_state_change=note)
    async with (
        running_node(told, clock=clock, store=url, name="heir", workers=0) as heir,
        running_node(Job("sleep", sleep), clock=clock, store=flaky.store, name="lost"),
    ):
        instance = await heir.schedule("sleep")
        await clock.advance(1)
        assert (await instance.refresh()).state is State.PROCESSING
        seen.clear()
        flaky.fail()
        await clock.advance(15)
        assert seen == [(instance.id, State.SCHEDULED)]
        flaky.heal()
