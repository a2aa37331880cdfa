"""Waits of a body: they hold no worker, keep their deadline, and end once."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest

from peerjob import (
    INJECTED,
    BlockingContext,
    Context,
    Instance,
    Job,
    Node,
    NodeStateError,
    NotRunningError,
    OptionError,
    Query,
    Rights,
    Role,
    Secret,
    Signal,
    SignalTimeout,
    State,
    StepNameError,
    Suspended,
    UnknownInstanceError,
    job,
)
from peerjob.handles.observing import observe
from peerjob.handles.reasons import why_instance
from peerjob.handles.scoped_manager import ScopedManager
from peerjob.model.clock import to_datetime
from peerjob.model.durable import MAX_STEPS_CALL, Step
from peerjob.model.record import Ack, Action, Outcome
from peerjob.model.step_values import encode_deadline
from peerjob.node.work.outcomes import MAX_SWALLOWED
from peerjob.testing import VirtualClock, running_node
from support.factories import lines_of, memory_store, notes_of

APPROVAL = Signal("approval", bool)
LIST = Signal("list", list[int])
RUNS = Counter[str]()


@job(kind="nap")
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


@pytest.fixture
async def node(clock: VirtualClock) -> AsyncIterator[Node]:
    async with running_node(store=memory_store(clock), clock=clock, workers=2) as running:
        yield running


async def begun(node: Node, body: Any, *args: Any, **options: Any) -> Instance[Any]:
    """An instance of a job with this body, that has run for a second."""
    job = Job("durable", body, **options)
    node.register(job)
    instance = await node.schedule(job, *args)
    await node.clock.advance(1)  # type: ignore[attr-defined]
    return await instance.refresh()


async def approve(context: Context = INJECTED) -> str:
    RUNS["approve"] += 1
    return f"approved: {await context.wait_for(APPROVAL)}"


def approve_blocking(context: BlockingContext = INJECTED) -> str:
    RUNS["approve"] += 1
    return f"approved: {context.wait_for(APPROVAL)}"


async def in_time(context: Context = INJECTED) -> str:
    RUNS["in time"] += 1
    try:
        return f"approved: {await context.wait_for(APPROVAL, timeout='3m')}"
    except SignalTimeout as error:
        return f"late: {error.signal}"


@pytest.mark.parametrize("body", [approve, approve_blocking])
async def test_a_wait_for_a_signal_holds_no_worker(node: Node, clock: VirtualClock, body: Any) -> None:
    instance = await begun(node, body)
    await clock.advance("3m")
    assert (await instance.refresh()).state is State.SCHEDULED
    assert RUNS == {"approve": 1}
    assert instance.waits_for == "signal approval"
    assert all(worker.instance is None for worker in node.workers())

    assert await node.signal(instance, APPROVAL, True) is True
    assert await instance.result(5) == "approved: True"
    assert RUNS == {"approve": 2}
    assert instance.attempts == 1
    assert instance.waits_for is None
    assert await notes_of(instance) == [
        "Created",
        "Scheduled",
        "Processing",
        "Scheduled: suspended",
        "Processing",
        "Completed",
    ]


async def test_a_signal_before_the_wait_is_enough(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> str:
        await context.suspend("first", "1m")
        return await approve(context)

    instance = await begun(node, body)
    assert await node.signal(instance.id, APPROVAL, False)
    assert await instance.result("2m") == "approved: False"
    assert RUNS == {"approve": 1}


async def test_the_error_of_a_secret_signal_does_not_show_the_value(node: Node) -> None:
    instance = await begun(node, approve)
    with pytest.raises(OptionError, match="for signal 'pin'") as caught:
        await node.signal(instance, Signal("pin", Annotated[int, Secret]), "hunter2")
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


async def test_the_first_value_of_a_signal_stays(node: Node) -> None:
    instance = await begun(node, approve)
    assert await node.signal(instance, "other", {"a": [1]})
    assert await node.signal(instance, "other", {"a": [1]})
    assert not await node.signal(instance, "other", {"a": [2]})
    assert await node.signal(instance, APPROVAL, True)
    await instance.result(5)
    assert await node.signal(instance, APPROVAL, True)
    assert not await node.signal(instance, APPROVAL, False)
    with pytest.raises(NotRunningError, match="is final"):
        await node.signal(instance, "new", 1)
    with pytest.raises(UnknownInstanceError):
        await node.signal("0190163d-8694-739b-aea5-966c26f8ad91", APPROVAL, True)


async def test_a_value_of_another_type_is_refused_before_it_is_stored(node: Node) -> None:
    instance = await begun(node, approve)
    wrong: Any = "yes, please"
    with pytest.raises(OptionError, match="value: expected a bool for signal 'approval'"):
        await node.signal(instance, APPROVAL, wrong)
    nothing: Any = None
    with pytest.raises(OptionError, match="value: expected a bool for signal 'approval', got None"):
        await node.signal(instance, APPROVAL, nothing)
    with pytest.raises(OptionError, match="expected"):
        await node.signal(instance, LIST, wrong)
    with pytest.raises(OptionError, match="signal"):
        await node.signal(instance, wrong.encode(), True)
    with pytest.raises(OptionError, match="instance"):
        await node.signal("approval", APPROVAL, True)
    assert await node.signal(instance, APPROVAL, True)


@pytest.mark.parametrize("value", [{"no": "bool"}, None])
async def test_a_value_that_does_not_fit_the_body_does_not_use_up_the_wait(
    node: Node, clock: VirtualClock, value: Any
) -> None:
    instance = await begun(node, in_time)
    assert await node.signal(instance, "approval", value)
    await clock.advance(1)
    waits_for = (await instance.refresh()).waits_for
    assert waits_for is not None
    assert waits_for.startswith("signal approval until ")
    [warning] = [line for line in await lines_of(instance) if "does not fit" in line]
    assert "'!approval'" in warning
    assert "'!approval@2'" in warning
    assert await node.signal(instance, "approval", "no bool either")
    await clock.advance(1)
    assert await node.signal(instance, APPROVAL, True)
    assert await instance.result(1) == "approved: True"
    assert instance.attempts == 1
    assert list(await node.steps(instance)) == ["!approval", "!approval@2", "!approval@3", "approval"]


async def test_a_value_that_does_not_fit_does_not_extend_the_wait(node: Node, clock: VirtualClock) -> None:
    instance = await begun(node, in_time)
    await clock.advance("2m")
    assert await node.signal(instance, "approval", "later")
    await clock.advance(61)
    assert await instance.result(1) == "late: approval"
    assert not await node.signal(instance, APPROVAL, True)


async def test_none_is_a_value_of_a_type_that_has_it(node: Node) -> None:
    instance = await begun(node, approve)
    for number, type in enumerate((None, Any, bool | None)):
        nothing: Any = None
        assert await node.signal(instance, Signal(f"nothing/{number}", type), nothing)


async def test_a_timeout_ends_the_wait_once(node: Node, clock: VirtualClock) -> None:
    instance = await begun(node, in_time)
    waits_for = instance.waits_for
    assert waits_for is not None
    assert waits_for.startswith("signal approval until ")
    assert await instance.result("4m") == "late: approval"
    assert (await node.steps(instance))["!approval"] == "timed out"
    assert RUNS == {"in time": 2}
    assert not await node.signal(instance, APPROVAL, True)


async def test_each_later_run_gets_the_same_timeout(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> str:
        answer = await in_time(context)
        await context.suspend("later", "1m")
        return answer

    instance = await begun(node, body)
    await clock.advance("3m")
    assert not await node.signal(instance, APPROVAL, True)
    assert await instance.result("2m") == "late: approval"
    assert RUNS == {"in time": 3}


async def test_a_signal_wins_over_a_timeout_that_comes_at_the_same_time(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> str:
        answer = None
        if context.instance is not None and RUNS["in time"]:
            answer = await node.signal(context.instance, APPROVAL, True)  # after the steps of this run were read
        return f"{await in_time(context)}, {answer}"

    async def reading(context: Context = INJECTED) -> str:
        if RUNS["in time"]:
            await context.step("read", str)
        return await body(context)

    instance = await begun(node, reading)
    assert await instance.result("4m") == "approved: True, True"


async def test_a_crash_or_retry_does_not_extend_a_wait(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> str:
        RUNS["body"] += 1
        if RUNS["body"] == 2:
            raise ValueError("a failure after the wait began")
        await context.suspend("wait", "10m")
        return "over"

    async def fails_between(context: Context = INJECTED) -> str:
        try:
            return await body(context)
        finally:
            RUNS["finally"] += 1

    instance = await begun(node, fails_between, max_retries=3, backoff="1m")
    begin = clock.elapsed()
    assert await instance.result("20m") == "over"
    assert 10 * 60 < clock.elapsed() - begin < 12 * 60, "the wait, and the wait for the retry"
    assert RUNS == {"body": 3, "finally": 3}
    assert instance.attempts == 2


async def test_a_wait_goes_on_where_it_was_when_the_run_before_ended_early(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> str:
        async def side() -> str:
            return await context.wait_for(Signal("side", str), timeout="1m")

        RUNS["body"] += 1
        with contextlib.suppress(SignalTimeout):
            await side()
        await context.suspend("long", "5m")
        return "over"

    instance = await begun(node, body)
    begin = clock.elapsed()
    assert await node.signal(instance, "side", "x")
    assert await instance.result("7m") == "over"
    assert 5 * 60 - 2 <= clock.elapsed() - begin <= 5 * 60 + 2


async def test_steps_that_run_at_the_same_time_end_before_the_run(node: Node, clock: VirtualClock) -> None:
    async def slow(name: str) -> str:
        RUNS[name] += 1
        await asyncio.sleep(5)
        return name

    async def body(context: Context = INJECTED) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            approved = group.create_task(context.wait_for(APPROVAL))
            steps = [group.create_task(context.step(name, slow, name)) for name in "ab"]
        return [approved.result(), *(step.result() for step in steps)]

    instance = await begun(node, body)
    await clock.advance(10)
    assert (await instance.refresh()).waits_for == "signal approval"
    assert await node.signal(instance, APPROVAL, True)
    assert await instance.result(1) == [True, "a", "b"]
    assert RUNS == {"a": 1, "b": 1}
    assert instance.attempts == 1


async def test_the_first_of_several_waits_is_enough(
    node: Node, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(ways: list[str], context: Context = INJECTED) -> list[Any]:
        RUNS["body"] += 1
        child = await context.start("child", nap.call(5))
        waits = {
            "signal": asyncio.ensure_future(context.wait_for(APPROVAL)),
            "child": asyncio.ensure_future(child.result()),
            "time": asyncio.ensure_future(context.suspend("time", 8)),
        }
        chosen = [waits[way] for way in ways]
        for way in waits.keys() - ways:
            waits[way].cancel()
        done, pending = await asyncio.wait(chosen, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        for task in pending:
            task.cancel()
        await context.step("after", str)
        return [way for way in ways if waits[way] in done]

    node.register(nap)
    for ways, first in (("signal child", "child"), ("signal time", "time"), ("signal child time", "signal")):
        RUNS.clear()
        instance = await begun(node, body, ways.split())
        assert instance.waits_for is not None
        if first == "signal":
            assert await node.signal(instance, APPROVAL, True)
        assert await instance.result(9) == [first]
        assert RUNS["body"] == 2
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_each_of_many_deadlines_stays_where_it_is(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> int:
        RUNS["body"] += 1
        waits = [
            asyncio.ensure_future(context.suspend(f"{number}", 150 - number))
            for number in range(MAX_STEPS_CALL * 2 + 9)
        ]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        for task in pending:
            task.cancel()
        return len(done)

    instance = await begun(node, body)
    assert await instance.result(50) == 1
    assert RUNS["body"] == 2
    assert len(await node.steps(instance)) == MAX_STEPS_CALL * 2 + 9


async def test_a_wait_that_was_given_up_does_not_suspend_the_body(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> int:
        RUNS["body"] += 1
        step = asyncio.ensure_future(context.step("slow", asyncio.sleep, 5))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await context.wait_for(APPROVAL)
        await step
        await asyncio.sleep(3)
        return await context.step("last", int)

    assert await (await begun(node, body)).result(20) == 0
    assert RUNS["body"] == 1


async def test_a_child_that_a_task_starts_is_awaited_beside_a_signal(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memory_store(clock)
    spawn = store.spawn

    async def slow_spawn(*args: Any) -> Any:
        for _ in range(50):  # a server takes many passes of the event loop
            await asyncio.sleep(0)
        return await spawn(*args)

    async def body(context: Context = INJECTED) -> float:
        signal = asyncio.ensure_future(context.wait_for(APPROVAL))
        child = asyncio.ensure_future(context.map("child", [nap.call(5)]))
        done, pending = await asyncio.wait([signal, child], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        results = [task.result() for task in done]
        assert done == {child}
        return len(results)

    monkeypatch.setattr(store, "spawn", slow_spawn)
    async with running_node(nap, store=store, clock=clock, workers=2) as node:
        instance = await begun(node, body)
        assert await instance.result(10) == 1


async def test_a_group_with_an_error_fails(node: Node) -> None:
    async def broken() -> None:
        raise ValueError("broken")

    async def body(context: Context = INJECTED) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(context.wait_for(APPROVAL))
            group.create_task(broken())

    instance = await begun(node, body)
    assert instance.state is State.TERMINATED


def swallow(context: BlockingContext = INJECTED) -> str:
    RUNS["swallow"] += 1
    try:
        return str(context.wait_for(APPROVAL))
    except BaseException:  # noqa: BLE001  # the mistake that is tested
        return "caught"  # the line that the ERROR names is the one of the call


async def swallow_on_loop(context: Context = INJECTED) -> str:
    RUNS["swallow"] += 1
    found = await asyncio.gather(context.wait_for(APPROVAL), return_exceptions=True)
    return str(found[0])


@pytest.mark.parametrize("body", [swallow, swallow_on_loop])
async def test_a_body_that_swallows_the_end_is_handed_back(
    node: Node, clock: VirtualClock, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    instance = await begun(node, body)
    assert instance.state is State.SCHEDULED
    assert instance.waits_for is None
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "caught Suspended" in errors[0]
    assert f"{__file__}, line " in errors[0]
    assert errors[0].removeprefix(f"instance {instance.id}: ") in await lines_of(instance)
    await clock.advance(35)
    assert 2 <= RUNS["swallow"] <= 4, "it runs again, and not in a hot loop"
    assert await node.signal(instance, APPROVAL, True)
    assert await instance.result(60) == "True"
    assert instance.attempts == 1


@pytest.mark.parametrize("body", [swallow, swallow_on_loop])
async def test_a_body_that_swallows_the_end_again_and_again_fails(node: Node, clock: VirtualClock, body: Any) -> None:
    instance = await begun(node, body, max_retries=1, backoff="1m")
    await clock.advance(140)
    assert (await instance.refresh()).state is State.TERMINATED
    assert RUNS["swallow"] == MAX_SWALLOWED + 2
    assert instance.attempts == 2
    assert instance.error is not None
    assert "caught Suspended" in instance.error.message


async def test_finally_blocks_run_and_except_exception_does_not_catch(node: Node) -> None:
    seen: list[str] = []

    async def body(context: Context = INJECTED) -> str:
        try:
            await context.suspend("nap", "1m")
        except Exception:  # noqa: BLE001
            seen.append("caught")
        except Suspended as error:
            seen.append(str(error))
            raise
        finally:
            seen.append("finally")
        return "over"

    instance = await begun(node, body)
    assert await instance.result("2m") == "over"
    assert seen[0].startswith("waits for ")
    assert seen[1:] == ["finally", "finally"]


async def test_waits_and_steps_share_their_names(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.step("approval", str)
        with pytest.raises(StepNameError):
            await context.wait_for(APPROVAL)
        with pytest.raises(StepNameError):
            await context.suspend("approval", 1)

    assert (await begun(node, body)).state is State.COMPLETED


async def test_names_of_values_that_do_not_fit_are_reserved(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        for name in ("charge@2", "approval@3"):
            with pytest.raises(OptionError, match="does not end in '@' and a number"):
                await context.step(name, str)
        assert await context.step("mail/ann@example.org", str) == ""

    assert (await begun(node, body)).state is State.COMPLETED
    with pytest.raises(OptionError, match="does not end"):
        Signal("approval@2", bool)


async def test_a_step_cannot_wait(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        async def inner() -> None:
            await context.suspend("inner", "1m")

        with pytest.raises(NodeStateError, match="only the body itself can wait"):
            await context.step("outer", inner)

    assert (await begun(node, body)).state is State.COMPLETED


async def test_a_deadline_that_another_writer_kept_first_counts(clock: VirtualClock) -> None:
    store = memory_store(clock)

    async def body(context: Context = INJECTED) -> str:
        RUNS["body"] += 1
        await context.step("opened", str)
        if RUNS["body"] == 1:  # with the fence of this run, so the answer to its SUSPEND is "taken"
            instance = context.instance
            assert instance is not None
            step = Step("nap", encode_deadline(clock.time_us() + 120_000_000))
            outcome = Outcome(id=context.id, fence=context.fence, action=Action.REPORT, steps=(step,), linked=True)
            assert await store.commit(instance.record.owner, [outcome], request="another") == [Ack.DONE]
        await context.suspend("nap", "1m")
        return "over"

    async with running_node(store=store, clock=clock) as node:
        instance = await begun(node, body)
        assert RUNS["body"] == 2
        assert "Scheduled: another value of a step was stored first" in await notes_of(instance)
        await clock.advance(100)
        assert (await instance.refresh()).state is State.SCHEDULED
        assert await instance.result(30) == "over"
        assert (RUNS["body"], instance.attempts) == (3, 1)


async def test_a_wait_of_no_time_does_not_end_the_run(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        RUNS["body"] += 1
        await context.suspend("none", 0)
        with pytest.raises(SignalTimeout):
            await context.wait_for(APPROVAL, timeout=0)
        with pytest.raises(OptionError):
            await context.suspend("negative", -1)

    assert (await begun(node, body)).state is State.COMPLETED
    assert RUNS == {"body": 1}


async def test_processors_see_the_suspension_and_the_real_end_only(node: Node, clock: VirtualClock) -> None:
    seen: list[str] = []

    def changed(instance: Instance[Any], state: State) -> None:
        seen.append(f"{state!s} {instance.record.history[-1].note}".strip())

    def completed(instance: Instance[Any], result: Any) -> None:
        seen.append(f"result {result}")

    def terminated(instance: Instance[Any], error: BaseException) -> None:
        seen.append("terminated")

    instance = await begun(node, in_time, on_state_change=changed, on_complete=completed, on_terminate=terminated)
    assert await node.signal(instance, APPROVAL, True)
    await instance.result(5)
    await clock.advance(1)
    assert seen == [
        "Created",
        "Scheduled",
        "Processing",
        "Scheduled suspended",
        "Processing",
        "Completed",
        "result approved: True",
    ]


async def test_run_now_and_why_say_what_it_waits_for(node: Node, clock: VirtualClock) -> None:
    instance = await begun(node, in_time)
    with pytest.raises(NodeStateError, match="is suspended, and waits for signal approval until "):
        await instance.run_now()
    (reason, *_) = why_instance(await observe(node, instance, to_datetime(clock.time_us())))
    assert reason == f"it is suspended: it waits for {instance.waits_for}"
    assert instance.to_dict()["waits_for"] == instance.waits_for


async def test_a_suspended_instance_can_be_cancelled(node: Node, clock: VirtualClock) -> None:
    instance = await begun(node, in_time)
    assert await instance.cancel()
    await clock.advance("5m")
    assert (await instance.refresh()).state is State.CANCELLED
    assert RUNS == {"in time": 1}
    with pytest.raises(NotRunningError):
        await node.signal(instance, APPROVAL, True)


async def test_rights_for_other_kinds_do_not_reach_the_instance(node: Node) -> None:
    instance = await begun(node, approve)
    other = ScopedManager(node, Rights(role=Role.OPERATOR, kinds=("other",)))
    with pytest.raises(UnknownInstanceError):
        await other.signal(instance.id, APPROVAL, True)
    own = ScopedManager(node, Rights(role=Role.OPERATOR, kinds=("durable",)))
    assert await own.signal(instance.id, APPROVAL, True)


async def test_a_suspended_instance_is_found_as_scheduled(node: Node, clock: VirtualClock) -> None:
    await begun(node, approve)
    assert await node.count(Query(state=State.SCHEDULED)) == 1
