"""A sync test drives a node on virtual time through the blocking verbs."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from peerjob import INJECTED, Backoff, BlockingManager, Context, Job, Node, NodeStateError, State, job
from peerjob.testing import VirtualClock, advance, blocking_node


def _third(context: Context = INJECTED) -> int:
    if context.attempt < 3:
        raise ValueError("not yet")
    return context.attempt


third = Job("third", _third, max_retries=5, backoff="20s")
jittery = Job("jittery", _third, max_retries=5, backoff=Backoff())


@job(kind="outer")
def outer(manager: BlockingManager = INJECTED) -> int:
    return manager.schedule(third).result()


@job(kind="tick", cron="* * * * *")
def tick() -> None: ...


def test_a_result_comes_after_its_backoffs() -> None:
    with blocking_node(third) as manager:
        assert manager.schedule(third).result(timeout="10m") == 3


def test_time_stands_still_between_the_verbs() -> None:
    clock = VirtualClock()
    with Node(jobs=[third], clock=clock).blocking() as manager:
        instance = manager.schedule(third.with_options(after="1m"))
        began = clock.elapsed()
        for _ in range(20):
            assert instance.refresh().state is State.SCHEDULED
        assert clock.elapsed() == began
        manager.wait(timeout="5m")
        assert 100 <= clock.elapsed() - began < 105
        assert instance.refresh().attempts == 3


def test_advance_moves_time_and_fires_schedules() -> None:
    clock = VirtualClock(start=datetime(2026, 10, 25, 0, 59, 30, tzinfo=UTC))
    with blocking_node(tick, clock=clock, timezone="Europe/Berlin") as manager:
        advance(manager, "3m")
        assert clock.elapsed() == pytest.approx(180, abs=1)
        fires = [fire.nominal for fire in manager.fires("tick")]
        assert sorted(fires) == [datetime(2026, 10, 25, 1, minute, tzinfo=UTC) for minute in (0, 1, 2)]


def test_a_timeout_ends_the_wait() -> None:
    with blocking_node(third) as manager:
        instance = manager.schedule(third.with_options(after="1h"))
        with pytest.raises(TimeoutError, match="not final after 5 s"):
            instance.result(timeout=timedelta(seconds=5))


def test_a_sync_job_that_waits_for_another_lets_time_pass() -> None:
    with blocking_node(outer, third) as manager:
        assert manager.schedule(outer).result(timeout="10m") == 3


def test_a_body_at_work_in_a_thread_holds_time() -> None:
    going, go_on = threading.Event(), threading.Event()

    @job(kind="held")
    def held() -> None:
        going.set()
        assert go_on.wait(60)

    clock = VirtualClock()
    with blocking_node(held, clock=clock) as manager:
        instance = manager.schedule(held)
        assert going.wait(60)
        ended = threading.Event()

        def wait() -> None:
            instance.result(timeout="1h")
            ended.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        began = clock.elapsed()
        manager.count()
        assert not ended.is_set()
        go_on.set()
        waiting.join(60)
        assert ended.is_set()
        assert clock.elapsed() - began < 1


def test_a_node_whose_body_goes_on_can_be_closed() -> None:
    nap = Job("nap", asyncio.sleep)
    clock = VirtualClock()
    with blocking_node(nap, clock=clock) as manager:
        instance = manager.schedule(nap, 600)
        advance(manager, 1)
        assert instance.refresh().state is State.PROCESSING
        began = clock.elapsed()
    assert 5 <= clock.elapsed() - began < 10, "the grace of a stop passes"


def test_a_stream_moves_time_while_it_is_waited_for() -> None:
    with blocking_node(third) as manager:
        manager.schedule(third.with_options(after="1m"))
        states: list[State] = []
        for event in manager.watch():
            states.append(event.state)
            if event.what == "state" and event.state is State.SCHEDULED:
                break
        assert State.PROCESSING in states


def test_one_seed_gives_one_course_of_time() -> None:
    def course() -> list[datetime]:
        with blocking_node(jittery, clock=VirtualClock(seed=9)) as manager:
            instance = manager.schedule(jittery)
            instance.wait(timeout="10m")
            return [entry.timestamp for entry in instance.history()]

    assert course() == course()


def test_what_else_draws_random_numbers_does_not_change_when_a_job_runs_again() -> None:
    """How many numbers the roles of a node draw depends on the speed of its threads."""

    def course(draws: int) -> list[datetime]:
        clock = VirtualClock(seed=9)

        def work(context: Context = INJECTED) -> None:
            for _ in range(draws):
                clock.random.random()
            if context.attempt < 4:
                raise ValueError("not yet")

        with blocking_node(Job("work", work, max_retries=5, backoff=Backoff()), clock=clock) as manager:
            instance = manager.schedule("work")
            instance.wait(timeout="10m")
            return [entry.timestamp for entry in instance.history()]

    assert course(0) == course(1) == course(5)


def test_what_is_closed_or_real_says_so() -> None:
    with blocking_node() as manager:
        pass
    with pytest.raises(NodeStateError, match="closed"):
        advance(manager, 1)
    with Node().blocking() as real, pytest.raises(RuntimeError, match="VirtualClock"):
        advance(real, 1)


def test_a_clock_serves_one_node_after_another() -> None:
    clock = VirtualClock()
    for _ in range(2):
        with blocking_node(third, clock=clock) as manager:
            assert manager.schedule(third).result() == 3
    assert clock.elapsed() >= 80
