"""Virtual time: it moves only on request, in order, and waits for threads."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from peerjob.model.clock import Clock, to_datetime
from peerjob.model.errors import OptionError
from peerjob.testing.clock import VirtualClock


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    with VirtualClock() as installed:
        yield installed


def test_it_is_a_clock() -> None:
    clock: Clock = VirtualClock(start=datetime(2030, 5, 1, tzinfo=UTC))

    assert clock.virtual
    assert to_datetime(clock.time_us()) == datetime(2030, 5, 1, tzinfo=UTC)
    assert clock.elapsed() == 0.0


def test_one_seed_gives_one_sequence() -> None:
    def draw(seed: int) -> list[float]:
        source = VirtualClock(seed=seed).random
        return [source.random() for _ in range(5)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


async def test_a_sleep_ends_when_time_has_come(clock: VirtualClock) -> None:
    sleeper = asyncio.create_task(asyncio.sleep(60))

    await clock.advance("59s")
    assert not sleeper.done()
    await clock.advance(timedelta(seconds=1))
    assert sleeper.done()
    assert clock.elapsed() == 60.0
    assert to_datetime(clock.time_us()) == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


async def test_settle_does_not_move_time(clock: VirtualClock) -> None:
    steps: list[int] = []

    async def walk() -> None:
        for step in range(50):
            await asyncio.sleep(0)
            steps.append(step)
        await asyncio.sleep(0.001)
        steps.append(-1)

    walker = asyncio.create_task(walk())
    await clock.settle()
    assert steps == list(range(50))
    assert clock.elapsed() == 0.0
    await clock.run(walker)


async def test_timers_fire_in_order_and_equal_ones_as_they_were_set(clock: VirtualClock) -> None:
    loop = asyncio.get_running_loop()
    fired: list[str] = []
    for name, delay in [("d", 3.0), ("a", 1.0), ("e", 3.0), ("b", 2.0), ("f", 3.0), ("c", 2.0), ("g", 3.0)]:
        loop.call_later(delay, fired.append, name)

    await clock.advance(3)
    assert "".join(fired) == "abcdefg"


async def test_a_timer_sees_its_own_time(clock: VirtualClock) -> None:
    seen: list[float] = []

    async def tick() -> None:
        for _ in range(3):
            await asyncio.sleep(0.5)
            seen.append(clock.elapsed())

    ticking = asyncio.create_task(tick())
    await clock.advance(10)
    assert seen == [0.5, 1.0, 1.5]
    assert ticking.done()


async def test_what_waits_for_a_moment_of_the_wall_clock_has_come_to_it(clock: VirtualClock) -> None:
    """However odd the time is from which it counts."""
    began = clock.time_us()
    came: list[int] = []

    async def wait(odd: float) -> None:
        await asyncio.sleep(odd)
        await asyncio.sleep((began + 5_000_000 - clock.time_us()) / 1_000_000)
        came.append(clock.time_us() - began)

    waiting = [asyncio.create_task(wait(part / 7)) for part in range(1, 30)]
    await clock.advance(5)
    assert came == [5_000_000] * len(waiting)
    assert clock.elapsed() == 5.0


async def test_the_shortest_sleep_takes_time_and_the_rest_of_a_float_none(clock: VirtualClock) -> None:
    for _ in range(3):
        await clock.run(asyncio.sleep(1e-9))
    assert clock.elapsed() == 0.000003
    for _ in range(10):
        await clock.advance(0.1)
    assert clock.elapsed() == 1.000003


async def test_timeouts_follow_virtual_time(clock: VirtualClock) -> None:
    async def impatient() -> None:
        await asyncio.wait_for(asyncio.Event().wait(), timeout=30)

    waiting = asyncio.create_task(impatient())
    await clock.advance("29s")
    assert not waiting.done()
    await clock.advance("1s")
    with pytest.raises(TimeoutError):
        await waiting


async def test_a_cancelled_timer_does_not_stop_time_on_its_way(clock: VirtualClock) -> None:
    loop = asyncio.get_running_loop()
    fired: list[float] = []
    loop.call_later(1, fired.append, 1.0).cancel()
    loop.call_later(2, lambda: fired.append(clock.elapsed()))

    await clock.advance(5)
    assert fired == [2.0]
    assert clock.elapsed() == 5.0


async def test_a_day_of_ticks_takes_seconds(clock: VirtualClock) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(1)
            ticks += 1

    ticking = asyncio.create_task(tick())
    began = time.thread_time()  # not what others on the machine take
    await clock.advance("1d")
    took = time.thread_time() - began
    ticking.cancel()
    assert ticks == 86_400
    assert took < 10  # about one second on an idle machine


async def test_time_stands_still_without_advance(clock: VirtualClock) -> None:
    loop = asyncio.get_running_loop()
    fired: list[str] = []
    loop.call_later(0.001, fired.append, "by itself")
    woken = loop.create_future()
    threading.Timer(0.05, lambda: loop.call_soon_threadsafe(woken.set_result, None)).start()

    await woken
    assert not fired
    assert clock.elapsed() == 0.0


async def test_time_stands_still_while_a_thread_works(clock: VirtualClock) -> None:
    loop = asyncio.get_running_loop()
    go_on = threading.Event()
    results: list[tuple[str, float]] = []

    async def use_thread() -> None:
        with clock.outside():
            done = loop.create_future()

            def work() -> None:
                go_on.wait(60)
                loop.call_soon_threadsafe(done.set_result, None)

            thread = threading.Thread(target=work)
            thread.start()
            await done
        results.append(("thread", clock.elapsed()))
        thread.join()

    user = asyncio.create_task(use_thread())
    await asyncio.sleep(0)
    timer = loop.call_later(1, lambda: results.append(("timer", clock.elapsed())))
    threading.Timer(0.05, go_on.set).start()
    await clock.advance(2)
    assert results == [("thread", 0.0), ("timer", 1.0)]
    assert user.done()
    assert timer.when() == 1.0


async def test_outside_may_be_left_by_another_thread(clock: VirtualClock) -> None:
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with clock.outside():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(60)
    moving = asyncio.create_task(clock.advance(1))
    woken = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon_threadsafe(woken.set_result, None)
    await woken
    assert not moving.done()
    leave.set()
    await moving
    thread.join()


async def test_work_in_an_executor_holds_time(clock: VirtualClock) -> None:
    order: list[str] = []

    async def work() -> None:
        await asyncio.to_thread(time.sleep, 0.05)
        order.append("thread")

    working = asyncio.create_task(work())
    asyncio.get_running_loop().call_later(1, order.append, "timer")
    await clock.advance(1)
    assert order == ["thread", "timer"]
    await working


async def test_run_moves_time_as_far_as_needed(clock: VirtualClock) -> None:
    async def work() -> str:
        await asyncio.sleep(90)
        return "done"

    assert await clock.run(work()) == "done"
    assert clock.elapsed() == 90.0


async def test_run_hands_on_an_error(clock: VirtualClock) -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await clock.run(fail())


async def test_run_gives_up_at_its_limit(clock: VirtualClock) -> None:
    cancelled: list[float] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(clock.elapsed())
            raise

    with pytest.raises(TimeoutError, match="not done within 5m"):
        await clock.run(hang(), limit="5m")
    assert cancelled == [300.0]


async def test_an_error_in_a_task_does_not_stop_time(clock: VirtualClock) -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise LookupError("in a task")

    failing = asyncio.create_task(fail())
    await clock.advance(2)
    assert clock.elapsed() == 2.0
    with pytest.raises(LookupError):
        await failing


async def test_two_may_wait_for_time(clock: VirtualClock) -> None:
    arrived: list[tuple[str, float]] = []

    async def go(name: str, seconds: float) -> None:
        await clock.advance(seconds)
        arrived.append((name, clock.elapsed()))

    await asyncio.gather(go("far", 5), go("near", 2), go("far too", 5))
    assert arrived == [("near", 2.0), ("far", 5.0), ("far too", 5.0)]


async def test_a_cancelled_advance_moves_no_further(clock: VirtualClock) -> None:
    moving = asyncio.create_task(clock.advance("1h"))
    asyncio.get_running_loop().call_later(60, moving.cancel)
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert clock.elapsed() == 60.0
    await clock.settle()
    assert clock.elapsed() == 60.0


async def test_time_does_not_go_back(clock: VirtualClock) -> None:
    with pytest.raises(OptionError):
        await clock.advance("-1s")


async def test_sockets_work(clock: VirtualClock) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"over a real socket\n")
    assert await reader.readline() == b"over a real socket\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert clock.elapsed() == 0.0


async def test_a_loop_gets_its_own_time_back() -> None:
    loop = asyncio.get_running_loop()
    fired: list[str] = []
    before = loop.time()
    loop.call_later(1000, fired.append, "set before")
    with VirtualClock() as clock:
        await clock.advance(99)
        assert not fired
        loop.call_later(0.001, fired.append, "left over")
    assert before <= loop.time() < before + 99
    await asyncio.sleep(0.01)  # and more, on a slow machine
    assert fired == ["left over"]


async def test_a_first_use_installs_it() -> None:
    clock = VirtualClock()
    assert to_datetime(clock.time_us()) == datetime(2026, 1, 1, tzinfo=UTC)
    assert asyncio.get_running_loop().time() == 0.0
    clock.uninstall()
    assert asyncio.get_running_loop().time() > 0.0


async def test_a_loop_has_one_clock(clock: VirtualClock) -> None:
    with pytest.raises(RuntimeError, match="another VirtualClock drives"):
        VirtualClock().install()


async def test_a_test_that_waits_without_moving_time_gets_a_warning(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerjob.testing.loop.MAX_STANDSTILL", 0.01)
    warning: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    sleep = asyncio.create_task(asyncio.sleep(1))

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warning.set_result(record.getMessage())

    logger, listener = logging.getLogger("peerjob.testing"), Listener()
    logger.addHandler(listener)
    try:
        assert "await clock.run(...)" in await warning
    finally:
        logger.removeHandler(listener)
    await clock.run(sleep)


def test_a_clock_goes_on_in_the_next_loop() -> None:
    clock = VirtualClock()
    asyncio.run(clock.advance(5))
    asyncio.run(clock.advance(5))
    assert clock.elapsed() == 10.0


def test_uvloop_is_refused() -> None:
    async def use() -> None:
        with pytest.raises(RuntimeError, match="without uvloop"):
            await VirtualClock().settle()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


def test_one_course_of_events_for_one_seed() -> None:
    def course() -> list[tuple[int, float]]:
        clock = VirtualClock(seed=3)
        seen: list[tuple[int, float]] = []

        async def walk(number: int) -> None:
            for _ in range(20):
                await asyncio.sleep(clock.random.choice((0.0, 0.1, 0.3)))
                seen.append((number, clock.elapsed()))

        async def main() -> None:
            await clock.run(asyncio.gather(*(walk(number) for number in range(5))))

        asyncio.run(main())
        return seen

    assert course() == course()


async def test_timers_fire_after_years_too(clock: VirtualClock) -> None:
    for _ in range(3):
        await clock.advance("4000d")
        began = clock.elapsed()
        await clock.run(asyncio.sleep(0.000_003))
        assert clock.elapsed() - began == pytest.approx(0.000_003, abs=1e-6)
