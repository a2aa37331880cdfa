"""Jumps over quiet stretches of time: the same happens as without, and it costs little."""

import asyncio
import contextlib
import random
import time
from typing import Any

import pytest

from peerjob import INJECTED, Context, Instance, Job, KeyLimit, State, UnknownInstanceError, UnknownKindError
from peerjob.testing import TestCluster, running_node

pytestmark = pytest.mark.one_python

START = "2026-03-01T12:00:00+00:00"
STEP_US = 10_000_000
TOLERANCE_US = 150_000
"""Nodes look at random moments, and with jumps at others."""


async def test_no_time_passes_while_a_thread_works() -> None:
    async def work() -> None:
        await asyncio.sleep(5)  # the start of the body is committed meanwhile
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)

    job = Job("thread", work)
    async with TestCluster(nodes=2, jobs=[job], start=START) as cluster:
        await cluster.advance("1m")  # from here on, idle time is skipped
        instance = await cluster.schedule(job)
        await cluster.advance("1d")
        (run,) = cluster.runs(job)
        assert run.ended_us is not None
        assert run.ended_us - run.began_us < 6_000_000
        cluster.assert_completed(instance, attempts=1)


async def course(seed: int, *, jumps: bool, steps: int, minutes: int) -> tuple[list[str], list[tuple[int, str, int]]]:
    """A random program: what became of its instances and fires, and when each body began and ended."""
    chance = random.Random(seed)

    async def work(seconds: float = 0, failures: int = 0, context: Context = INJECTED) -> float:
        await asyncio.sleep(seconds)
        if context.attempt <= failures:
            raise ConnectionError(f"attempt {context.attempt}")
        return seconds

    jobs = [
        Job("plain", work),
        Job("retried", work, max_retries=3, backoff="40s", jitter=0),
        Job("bounded", work, timeout="30s", max_retries=1, backoff="5s", jitter=0),
        Job("unique", work, key="one"),
        Job("brief", work, retention="2m"),
        Job("minutely", work, cron="* * * * *", retention="5m"),
        Job("skips", work, every="50s", overlap="skip"),
        Job("queues", work, every="70s", overlap="queue"),
        Job("later", work, after="3m", priority=-5),
    ]
    kinds = {job.kind: job for job in jobs}
    made: list[Instance[Any]] = []
    seen: list[str] = []
    async with TestCluster(nodes=2, jobs=jobs, seed=seed, start=START, workers=3, jumps=jumps) as cluster:
        began_us = cluster.clock.time_us()
        for _ in range(steps):
            # what happens at random moments before it must not shift what is done from here on
            await cluster.advance((STEP_US - cluster.clock.time_us() % STEP_US) / 1e6)
            for _ in range(chance.randrange(3)):
                job = kinds[chance.choice(["plain", "retried", "bounded", "unique", "brief", "later"])]
                made.append(await cluster.schedule(job, chance.choice([0, 1, 20, 65, 200]), chance.randrange(3)))
            with contextlib.suppress(UnknownInstanceError):
                await act(cluster, chance, made)
            await cluster.advance(chance.choice([0.5, 11, 59, 130, 250]))
        # the same moment in both, in which nothing is about to happen
        await cluster.advance(minutes * 60 + 25 - (cluster.clock.time_us() - began_us) / 1e6)
        runs = [(run.began_us, run.kind, run.ended_us or 0) for run in cluster.runs()]
        for name in ("minutely", "skips", "queues"):
            seen += [f"{name} {record.nominal_us} {record.outcome} {record.count}" for record in cluster.fires(name)]
        for instance in made:
            try:
                await instance.refresh()
            except UnknownInstanceError:
                seen.append(f"{instance.kind} removed")
            else:
                seen.append(f"{instance.kind} {instance.state!s} {instance.attempts} {instance.crashes}")
    return seen, sorted(runs)


async def act(cluster: TestCluster, chance: random.Random, made: list[Instance[Any]]) -> None:
    """Do one thing that a user may do."""
    match chance.randrange(6):
        case 0 if made:
            await chance.choice(made).cancel()
        case 1:
            schedule = await cluster.leader.lookup_schedule(chance.choice(["minutely", "skips", "queues"]))
            await (schedule.pause() if chance.random() < 0.5 else schedule.resume())
        case 2 if made:
            await made[-1].wait(timeout="10m")
        case 3 if all(run.ended for run in cluster.runs()):
            stopped = cluster.leader.name
            await cluster.stop(stopped)
            await cluster.restart(stopped)
            await cluster.elected()
        case _:
            pass


@pytest.mark.matrix("compares two long runs of a tool for tests")
@pytest.mark.parametrize("seed", range(2))
async def test_the_same_happens_with_jumps_and_without(seed: int) -> None:
    await compare(seed, steps=6, minutes=20)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 30))
async def test_the_same_happens_with_jumps_and_without_for_hours(seed: int) -> None:
    await compare(seed, steps=20, minutes=60)


async def compare(seed: int, *, steps: int, minutes: int) -> None:
    seen, runs = await course(seed, jumps=True, steps=steps, minutes=minutes)
    expected, expected_runs = await course(seed, jumps=False, steps=steps, minutes=minutes)
    assert seen == expected
    assert len(runs) == len(expected_runs) > minutes
    for kind in {kind for _, kind, _ in runs}:
        for run, other in zip(of_kind(runs, kind), of_kind(expected_runs, kind), strict=True):
            assert run == pytest.approx(other, abs=TOLERANCE_US), kind


def of_kind(runs: list[tuple[int, str, int]], wanted: str) -> list[tuple[int, int]]:
    """When the bodies of a kind began and ended."""
    return [(began_us, ended_us) for began_us, kind, ended_us in runs if kind == wanted]


async def test_a_day_of_three_nodes_with_an_hourly_job_takes_a_second() -> None:
    began = time.process_time()
    async with TestCluster(nodes=3, jobs=[Job("hourly", nothing, cron="0 * * * *")]) as cluster:
        await cluster.advance("1d")
        cluster.assert_fired("hourly", times=24)
        assert len(cluster.runs("hourly")) == 24
    assert time.process_time() - began < 5


@pytest.mark.soak
async def test_a_year_of_three_nodes_with_an_hourly_job_takes_half_a_minute() -> None:
    began = time.process_time()
    async with TestCluster(nodes=3, jobs=[Job("hourly", nothing, cron="0 * * * *")]) as cluster:
        await cluster.advance("365d")
        cluster.assert_fired("hourly", times=365 * 24)
        assert len(cluster.runs("hourly")) == 365 * 24
    assert time.process_time() - began < 60


async def nothing() -> None:
    """Do nothing."""


async def test_a_body_s_own_time_goes_with_the_wall_clock() -> None:
    async def body(context: Context = INJECTED) -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began, began_us = loop.time(), cluster.clock.time_us()
        await asyncio.sleep(6 * 3600)
        return loop.time() - began, (cluster.clock.time_us() - began_us) / 1e6

    job = Job("long", body)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        began = time.process_time()
        instance = await cluster.schedule(job)
        assert await instance.result(timeout="7h") == pytest.approx((6 * 3600, 6 * 3600))
        assert time.process_time() - began < 5
        assert cluster.leader.is_healthy


async def test_a_timeout_of_hours_ends_a_body_in_its_time() -> None:
    job = Job("bounded", asyncio.sleep, timeout="3h", max_retries=0)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        instance = await cluster.schedule(job, 5 * 3600)
        await cluster.run_until_idle("4h")
        cluster.assert_state(instance, State.TIMED_OUT)
        (run,) = cluster.runs(job)
        assert (run.ended_us or 0) - run.began_us == pytest.approx(3 * 3600e6, abs=1e6)


async def test_what_has_ended_is_removed_in_its_time_though_nothing_else_happens() -> None:
    job = Job("brief", nothing, retention="1h")
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        instance = await cluster.schedule(job)
        await cluster.advance("59m")
        assert (await instance.refresh()).state is State.COMPLETED
        await cluster.advance("2m")
        with pytest.raises(UnknownInstanceError):
            await instance.refresh()


async def test_a_kind_that_no_node_publishes_any_more_is_forgotten_after_a_month() -> None:
    job = Job("old", nothing)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        for node in cluster.nodes:
            node.unregister("old")
        await cluster.advance("29d")
        assert (await cluster.clock.run(cluster.node("node-1").schedule("old"))).kind == "old"
        await cluster.advance("2d")
        with pytest.raises(UnknownKindError):  # the other node has not asked before
            await cluster.clock.run(cluster.node("node-2").schedule("old"))


async def test_a_fault_in_a_quiet_stretch_ends_the_jumps_until_the_cluster_has_come_to_rest() -> None:
    job = Job("daily", nothing, cron="0 6 * * *")
    async with TestCluster(nodes=3, jobs=[job], start="2026-01-01T00:00+00:00") as cluster:
        await cluster.advance("5h")
        first = cluster.leader
        await cluster.kill(first)
        await cluster.advance("2d")
        cluster.assert_fired(job, times=2)
        assert cluster.leader is not first
        assert len(await cluster.leader.nodes()) == 2


async def test_no_time_is_skipped_while_only_a_check_of_limits_lets_instances_go() -> None:
    """The node dies after the write that takes back a claim, and before the one that lets the next instance go."""

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)

    job = Job("keyed", work, limits=[KeyLimit(lambda _: "key", concurrency=1)])
    async with TestCluster(nodes=1, jobs=[job], latency=0.05) as cluster:
        held = await cluster.schedule(job, 60)
        await cluster.schedule(job, 0)
        await cluster.advance(2)
        assert [run.instance for run in cluster.runs(job)] == [held.id]
        await cluster.kill("node-1")
        await cluster.restart("node-1")
        assert await cluster.clock.until(lambda: "(node lost)" in cluster.trace[-1].text, "1m")
        await cluster.kill("node-1")
        await cluster.restart("node-1")
        await cluster.run_until_idle("5m")


@pytest.mark.matrix("a long run of a tool for tests")
async def test_a_node_beside_the_cluster_on_its_clock_misses_nothing() -> None:
    later, hourly = Job("later", nothing, after="100s"), Job("hourly", nothing, every="20m")
    async with TestCluster(nodes=1) as cluster:
        await cluster.advance("1m")  # so long that time may jump
        async with running_node(later, hourly, clock=cluster.clock) as beside:
            instance = await beside.schedule(later)
            await cluster.advance("30m")
            assert (await instance.refresh()).state is State.COMPLETED
            assert [entry.outcome for entry in await beside.fires("hourly")] == ["fired"]
            assert beside.is_healthy
