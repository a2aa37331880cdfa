"""A job runs at once in a unit test, with all that a node would make of it."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest
import uvloop

from peerjob import (
    INJECTED,
    ArgumentError,
    Backoff,
    BlockingContext,
    BlockingManager,
    Context,
    Depends,
    Fail,
    Instance,
    Job,
    JobFailed,
    JobTimedOut,
    Node,
    NodeStateError,
    OptionError,
    Recovered,
    Retry,
    Signal,
    SignalTimeout,
    State,
    Worker,
    job,
)
from peerjob.model.durable import MAX_STEPS_CALL
from peerjob.testing import Eager, EagerRun, Verdict, VirtualClock, eager, eager_async, running_node

logger = logging.getLogger(__name__)
tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


@dataclass
class Charge:
    id: int
    on: date


def _running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _charge(charge: Charge, context: Context = INJECTED) -> Charge:
    if context.attempt < 3:
        raise ConnectionError("busy")
    return charge


CHARGE = Job("charge", _charge, max_retries=3, backoff="10s")


async def _charge_async(charge: Charge, context: Context = INJECTED) -> Charge:
    await asyncio.sleep(0)
    return _charge(charge, context)


CHARGE_ASYNC = Job("charge.async", _charge_async, max_retries=3, backoff="10s")


def check_charged(run: EagerRun[Charge]) -> None:
    assert (run.verdict, run.state, len(run.attempts)) == (Verdict.COMPLETED, State.COMPLETED, 3)
    assert run.result == Charge(1, date(2026, 1, 2))
    assert run.waits == [10, 10]
    assert [one.verdict for one in run.attempts] == ["retried", "retried", "completed"]
    assert str(run.attempts[0].error) == "ConnectionError: busy"
    assert run.attempts[1].note.startswith("retry 2 in 10s: ConnectionError")
    assert run.error is None
    assert run.instance.attempts == 3


@pytest.mark.parametrize("job", [CHARGE, CHARGE_ASYNC])
def test_a_job_is_retried_and_converted_in_a_sync_test(job: Job[[Charge], Charge]) -> None:
    check_charged(eager(job, Charge(1, date(2026, 1, 2))))
    check_charged(eager(job.call(Charge(1, date(2026, 1, 2)))))


@pytest.mark.parametrize("job", [CHARGE, CHARGE_ASYNC])
async def test_a_job_is_retried_and_converted_in_an_async_test(job: Job[[Charge], Charge]) -> None:
    check_charged(await eager_async(job, Charge(1, date(2026, 1, 2))))


def test_arguments_come_as_stored_and_wrong_ones_are_refused() -> None:
    @job(kind="typed")
    def typed(charge: Charge, *numbers: int) -> tuple[str, str]:
        return type(charge).__name__, type(numbers[0]).__name__

    loose: Job[..., tuple[str, str]] = typed
    assert eager(loose, {"id": "1", "on": "2026-01-02"}, "7").result == ("Charge", "int")
    with pytest.raises(ArgumentError, match="numbers"):
        eager(loose, Charge(1, date(2026, 1, 2)), "seven")


def test_a_result_that_cannot_be_stored_fails_the_job() -> None:
    @job(kind="socket", max_retries=5)
    def odd() -> object:
        return threading.Lock()

    run = eager(odd)
    assert (run.verdict, len(run.attempts)) == (Verdict.TERMINATED, 1)
    with pytest.raises(JobFailed):
        _ = run.result


def test_an_async_body_runs_on_a_loop_as_the_program_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    @job
    async def loop() -> str:
        return type(asyncio.get_running_loop()).__module__

    monkeypatch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)
    assert eager(loop).result == "uvloop"


def test_the_policy_decides_what_is_retried() -> None:
    @job(kind="picky", max_retries=2, retry_on=ConnectionError)
    def picky(error: str) -> None:
        errors: dict[str, Exception] = {
            "busy": ConnectionError(),
            "bad": ValueError("bad"),
            "never": Fail(),
            "later": Retry(after=7),
        }
        raise errors[error]

    assert [len(eager(picky, error).attempts) for error in ("busy", "bad", "never")] == [3, 1, 1]
    assert len(eager(picky.with_options(max_retries=0), "busy").attempts) == 1
    run = eager(picky, "later")
    assert (run.waits, run.verdict, run.state) == ([7, 7], Verdict.TERMINATED, State.TERMINATED)
    with pytest.raises(JobFailed, match="bad"):
        _ = eager(picky, "bad").result


def test_a_job_that_is_retried_for_ever_ends_at_the_most_attempts() -> None:
    @job(kind="stubborn", max_retries=None, backoff=lambda instance, error: instance.attempts)
    def stubborn() -> None:
        raise ValueError

    run = Eager(max_attempts=4).run(stubborn)
    assert (run.verdict, run.state) == (Verdict.RETRIED, State.SCHEDULED)
    assert run.waits == [1, 2, 3, 4]
    with pytest.raises(NodeStateError, match="no outcome yet"):
        _ = run.result
    with pytest.raises(OptionError, match="max_attempts"):
        Eager(max_attempts=0)


def test_a_snooze_is_no_attempt() -> None:
    @job(kind="poll")
    def poll(context: Context = INJECTED) -> None:
        context.snooze("90s")

    run = eager(poll)
    assert (run.verdict, run.state, run.waits) == (Verdict.SNOOZED, State.SCHEDULED, [90])


async def test_a_timeout_ends_a_body_in_virtual_time() -> None:
    @job(kind="slow", timeout="1m", max_retries=1, backoff="2m")
    async def slow() -> None:
        await asyncio.sleep(3600)

    with VirtualClock() as clock:
        run = await Eager(clock=clock).run_async(slow)
        assert (run.verdict, run.state, len(run.attempts)) == (Verdict.TIMED_OUT, State.TIMED_OUT, 2)
        assert clock.elapsed() == pytest.approx(240)
    with pytest.raises(JobTimedOut):
        _ = run.result


def test_a_sync_test_may_have_virtual_time_too() -> None:
    @job(kind="nap", max_retries=1, backoff="1h")
    async def nap(context: Context = INJECTED) -> None:
        await asyncio.sleep(600)
        if context.attempt == 1:
            raise ValueError

    clock = VirtualClock()
    assert Eager(clock=clock).run(nap).verdict is Verdict.COMPLETED
    assert clock.elapsed() == pytest.approx(4800)


def test_a_sync_body_that_heeds_its_timeout_ends_with_it() -> None:
    @job(kind="heedful", timeout="50ms")
    def heedful(context: Context = INJECTED) -> None:
        assert context.wait(60)
        context.raise_if_cancelled()

    assert eager(heedful).verdict is Verdict.TIMED_OUT


def test_a_sync_body_runs_in_the_thread_and_the_context_of_the_test() -> None:
    @job(
        kind="where", on_terminate=lambda instance, error: Recovered((threading.get_ident(), _running(), tenant.get()))
    )
    def where(fails: bool) -> tuple[int, bool, str]:
        if fails:
            raise ValueError
        return threading.get_ident(), _running(), tenant.get()

    token = tenant.set("acme")
    try:
        for fails in (False, True):
            assert eager(where, fails).result == (threading.get_ident(), False, "acme")
    finally:
        tenant.reset(token)


async def test_an_async_body_runs_on_the_loop_of_the_test() -> None:
    loop = asyncio.get_running_loop()

    @job(kind="where")
    async def where() -> bool:
        return asyncio.get_running_loop() is loop

    assert (await eager_async(where)).result
    with pytest.raises(RuntimeError, match="eager_async"):
        eager(where)


def test_resources_are_made_overridden_and_closed() -> None:
    steps: list[str] = []

    def real() -> str:
        raise AssertionError

    def fake() -> Iterator[str]:
        steps.append("open")
        yield "fake"
        steps.append("closed")

    async def shared() -> str:
        return "shared"

    @job(kind="uses")
    def uses(database: str = Depends(real), pool: str = Depends(shared, scope="node")) -> str:
        steps.append("body")
        return database + pool

    assert Eager(overrides={real: fake}).run(uses).result == "fakeshared"
    assert steps == ["open", "body", "closed"]


def test_the_body_sees_its_run() -> None:
    seen: list[object] = []

    @job(kind="seeing", cron="0 3 * * *")
    async def seeing(
        context: Context = INJECTED, instance: Instance[None] = INJECTED, worker: Worker = INJECTED
    ) -> None:
        await context.assert_owner()
        context.progress(0.5, "half")
        instance.log.info("kept %d", 1)
        logger.warning("captured", extra={"n": 2})
        seen.extend([context.nominal_at, context.schedule, instance.id == context.id, worker.node, context.detached])

    run = Eager(nominal_at=datetime(2026, 10, 25, 2, tzinfo=UTC)).run(seeing)
    assert run.verdict is Verdict.COMPLETED, run.error
    assert seen == [datetime(2026, 10, 25, 2, tzinfo=UTC), "seeing", True, "eager", False]
    assert run.progress is not None
    assert (run.progress.fraction, run.progress.message) == (0.5, "half")
    assert [(line.message, line.fields) for line in run.logs] == [("kept 1", {}), ("captured", {"n": 2})]


def test_a_job_of_a_process_runs_here() -> None:
    assert eager(_IDENT.with_options(run_in="process")).result == threading.get_ident()


def test_a_job_that_needs_a_node_gets_an_error_with_advice() -> None:
    @job(kind="parent")
    async def parent(node: Node = INJECTED) -> None:
        await node.schedule(CHARGE, Charge(1, date(2026, 1, 2)))

    @job(kind="parent.sync")
    def parent_sync(manager: BlockingManager = INJECTED) -> None:
        manager.schedule(CHARGE, Charge(1, date(2026, 1, 2)))

    for one in (parent, parent_sync):
        with pytest.raises(JobFailed, match=r"no schedule\(\): test it with running_node\(\)"):
            _ = eager(one).result
    with pytest.raises(OptionError, match="a job with a callable"):
        eager(Job("elsewhere"))
    with pytest.raises(TypeError, match="a Job or a call"):
        eager(len)  # type: ignore[call-overload]


def test_the_clock_has_gone_on_by_the_waits() -> None:
    @job(kind="logging", max_retries=1, backoff="1h")
    def logs(instance: Instance[None] = INJECTED) -> None:
        instance.log.info("an attempt")
        raise ValueError

    first, second = eager(logs).logs
    assert 3600 <= (second.timestamp - first.timestamp).total_seconds() < 3660


def test_one_seed_gives_one_jitter() -> None:
    wobbly = Job("wobbly", _broken, max_retries=3, backoff=Backoff())
    assert Eager(seed=1).run(wobbly).waits == Eager(seed=1).run(wobbly).waits
    assert Eager(seed=1).run(wobbly).waits != Eager(seed=2).run(wobbly).waits


@pytest.mark.parametrize("sync", [True, False])
def test_ctrl_c_ends_the_test_and_not_the_job(sync: bool) -> None:
    attempts: list[int] = []

    def interrupted(context: Context = INJECTED) -> None:
        attempts.append(context.attempt)
        raise KeyboardInterrupt

    async def interrupted_async(context: Context = INJECTED) -> None:
        interrupted(context)

    with pytest.raises(KeyboardInterrupt):
        eager(Job("interrupted", interrupted if sync else interrupted_async, max_retries=3))
    assert attempts == [1]


async def test_a_cancelled_test_cancels_the_body() -> None:
    ended = asyncio.Event()

    @job(kind="endless")
    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(eager_async(endless), 0.01)
    assert ended.is_set()


def _broken() -> None:
    raise ValueError("broken")


def _ident() -> int:
    return threading.get_ident()


_IDENT = Job("ident", _ident)


async def _said(made: Awaitable[object]) -> type[BaseException] | None:
    try:
        await made
    except Exception as error:  # noqa: BLE001  # the same is expected of the other
        return type(error)
    return None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cron": "0 3 * * *"},
        {"every": "1h"},
        {"after": "1h"},
        {"priority": 3, "key": "k", "tags": ("a",)},
        {"run_in": "async"},
        {"run_in": "process"},
        {"version": 2},
    ],
    ids=str,
)
async def test_what_a_node_would_not_schedule_is_refused_in_place_too(clock: VirtualClock, options: Any) -> None:
    base = Job("parity", _running)
    call = base.with_options(**options).call()
    async with running_node(base, clock=clock) as node:
        on_node = await _said(node.schedule(call))
    in_place = await _said(Eager(clock=clock).run_async(call))
    assert in_place is on_node


APPROVAL = Signal("approval", bool)


async def label(item: int, context: Context = INJECTED) -> str:
    await context.suspend("paper", "1h")
    return f"label {item}"


def charge(number: int) -> int:
    CHARGED.append(number)
    return number


CHARGED: list[int] = []
LABEL = Job("label", label)


async def order(number: int, context: Context = INJECTED) -> list[str]:
    paid = await context.step("charge", charge, number)
    labels = await context.map("labels", (LABEL.call(item) for item in range(paid)))
    try:
        approved = await context.wait_for(APPROVAL, timeout="7d")
    except SignalTimeout:
        approved = False
    return [*labels, str(approved)]


def blocking_order(number: int, context: BlockingContext = INJECTED) -> list[str]:
    paid = context.step("charge", charge, number)
    labels = context.map("labels", [LABEL.call(item) for item in range(paid)])
    try:
        approved = context.wait_for(APPROVAL, timeout="7d")
    except SignalTimeout:
        approved = False
    return [*labels, str(approved)]


@pytest.mark.parametrize("body", [order, blocking_order])
def test_steps_children_and_waits_of_days_run_in_place(body: Any) -> None:
    CHARGED.clear()
    run = Eager().run(Job("order", body), 2)
    assert run.result == ["label 0", "label 1", "False"]
    assert [attempt.verdict for attempt in run.attempts] == [Verdict.SUSPENDED, Verdict.COMPLETED]
    assert run.instance.attempts == 1
    assert 600_000 < sum(run.waits) <= 604_800
    assert CHARGED == [2]

    assert Eager(signals={APPROVAL: True}).run(Job("order", body), 0).result == ["True"]
    assert Eager(signals={"approval": False}).run(Job("order", body), 0).result == ["False"]


def test_waits_and_children_at_the_same_time_run_in_place() -> None:
    async def body(context: Context = INJECTED) -> None:
        charges = [Job("charge", slow_charge).call(number) for number in (1, 2)]
        naps = [context.suspend(f"nap/{number}", "1d") for number in range(MAX_STEPS_CALL + 1)]
        await asyncio.gather(context.map("charges", charges), *naps)

    CHARGED.clear()
    # the naps can end at different moments, and so in different runs
    assert eager(Job("both", body)).verdict is Verdict.COMPLETED
    assert CHARGED == [1, 2]


async def slow_charge(number: int) -> int:
    await asyncio.sleep(0.01)
    return charge(number)


def test_a_wait_without_an_end_ends_the_runs() -> None:
    async def wait(context: Context = INJECTED) -> bool:
        return await context.wait_for(APPROVAL)

    run = eager(Job("wait", wait))
    assert run.verdict is Verdict.SUSPENDED
    assert run.instance.waits_for == "signal approval"

    async def parent(context: Context = INJECTED) -> bool:
        return await context.call("child", Job("wait", wait).call())

    assert eager(Job("parent", parent)).instance.waits_for == "its children"
