"""A wall clock that is set between two renewals: nothing may come early before the node hears that it is off."""

import pytest

from peerjob import Job
from peerjob.model.clock import CorrectedTime, to_datetime
from peerjob.testing import TestCluster, VirtualClock
from support.searches import seeds

STEPS = ["3650d", "2h", "-2h", "5s"]


async def work() -> None:
    pass


@pytest.mark.parametrize("seed", seeds(range(3)))
@pytest.mark.parametrize("step", STEPS)
async def test_a_leader_whose_clock_is_set_fires_each_time_at_its_time(step: str, seed: int) -> None:
    hourly = Job("hourly", work, cron="0 * * * *")
    async with TestCluster(jobs=[hourly], nodes=3, seed=seed, start="2026-03-02T00:10+00:00") as cluster:
        await cluster.advance("45m")
        await cluster.skew(cluster.leader, step)
        await cluster.advance("2m")
        for name in ("node-1", "node-2", "node-3"):
            await cluster.skew(name, "0s")
        await cluster.advance("3h")
        fires = cluster.fires(hourly)
        assert [to_datetime(fire.nominal_us).hour for fire in fires] == [1, 2, 3]
        assert all(0 <= fire.late_us < 5_000_000 for fire in fires)


@pytest.mark.parametrize("nodes", [1, 3])
async def test_no_fire_is_recorded_before_its_time_when_the_clock_of_the_leader_is_set_back(nodes: int) -> None:
    secondly = Job("secondly", work, cron="* * * * * *")
    # nodes renew each second from their start on, so that the next fire comes before the next renewal
    async with TestCluster(jobs=[secondly], nodes=nodes, start="2026-03-02T00:10:00.400+00:00") as cluster:
        await cluster.advance("10.5s")
        before = len(cluster.fires(secondly))
        await cluster.skew(cluster.leader, "-30s")
        await cluster.advance("0.4s")
        fires = cluster.fires(secondly)
        assert len(fires) > before
        assert all(fire.at_us >= fire.nominal_us for fire in fires)


@pytest.mark.parametrize("seed", seeds(range(3)))
@pytest.mark.parametrize("step", STEPS)
async def test_a_delayed_instance_waits_if_a_clock_is_set(step: str, seed: int) -> None:
    job = Job("delayed", work, after="1h")
    async with TestCluster(jobs=[job], nodes=3, seed=seed) as cluster:
        instance = await cluster.schedule(job)
        await cluster.advance("30m")
        for name in ("node-1", "node-2", "node-3"):
            await cluster.skew(name, step)
            await cluster.advance("10s")
            await cluster.skew(name, "0s")
            await cluster.advance("1m")
        assert not cluster.runs(job)
        await cluster.advance("40m")
        cluster.assert_completed(instance, attempts=1)


def test_a_corrected_time_passes_with_the_monotonic_time() -> None:
    clock = VirtualClock()
    time = CorrectedTime(clock)
    began = clock.time_us()
    time.correct(5_000_000)
    assert (time.time_us(), time.ahead_us) == (began - 5_000_000, 5_000_000)
