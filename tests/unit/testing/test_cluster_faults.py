"""Each fault of a test cluster, in a course of events that would be another one if the fault did nothing."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from peerjob import INJECTED, Context, Job, NodeStateError, OptionError, State, StoreUnavailableError
from peerjob.testing import TestCluster


class Bodies:
    """Runs for a while, and notes what becomes of it where."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def __call__(self, seconds: float = 0, context: Context = INJECTED) -> None:
        assert context.instance is not None
        node = context.instance.node
        self.notes.append(f"{node} begins")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.notes.append(f"{node} {context.reason}")
            raise
        self.notes.append(f"{node} ends")


async def holder_of(cluster: TestCluster, job: Job[..., None, object], seconds: float) -> str:
    """Schedule a run of so many seconds, and name the node that runs it."""
    await cluster.schedule(job, seconds)
    await cluster.advance(1)
    (run,) = cluster.runs(job)
    return run.node


async def test_a_task_pauses_a_node_that_has_steps_to_run_at_that_moment() -> None:
    """A random program found that the loop then ran out of the steps that it had counted."""
    steps = 0

    async def spin() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    job = Job("k", spin)
    async with TestCluster(nodes=1, jobs=[job], seed=1) as cluster:

        async def pauses() -> None:
            while steps < 10:  # noqa: ASYNC110  # a step in each round, before that of the body
                await asyncio.sleep(0)
            await cluster.pause("node-1")

        pausing = asyncio.create_task(pauses())  # first in each round, so that the body's step comes after it
        await cluster.schedule(job)
        await cluster.advance("1s")
        await pausing
        before = steps
        await cluster.advance("1s")
        assert steps == before
        await cluster.kill("node-1")


async def test_a_paused_node_runs_no_step_and_finds_its_work_lost() -> None:
    bodies = Bodies()
    job = Job("long", bodies)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        paused = await holder_of(cluster, job, 20)
        await cluster.pause(paused)
        await cluster.advance(60)
        (other,) = {node.name for node in cluster.nodes} - {paused}
        assert bodies.notes == [f"{paused} begins", f"{other} begins", f"{other} ends"]
        cluster.assert_state(cluster.runs(job)[0].instance, State.COMPLETED)
        await cluster.resume(paused)
        await cluster.advance(5)
        # its timer was late, as was the lease's: whichever comes first
        assert bodies.notes[3:] in ([f"{paused} ends"], [f"{paused} lost"])
        assert cluster.node(paused).is_healthy
        with pytest.raises(AssertionError, match="two bodies ran at the same time"):
            cluster.assert_never_concurrent(job)


async def test_a_call_through_a_paused_node_waits_for_it() -> None:
    async with TestCluster(nodes=2, jobs=[Job("quick", Bodies())]) as cluster:
        await cluster.pause("node-1")
        asked = asyncio.ensure_future(cluster.node("node-1").schedule("quick"))
        await cluster.advance(2)
        assert not asked.done()
        await cluster.resume("node-1")
        await cluster.advance(0)
        assert (await asked).kind == "quick"


async def test_a_node_cut_off_from_the_store_ends_its_bodies_before_a_peer_begins_them() -> None:
    bodies = Bodies()
    job = Job("long", bodies)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        lost = await holder_of(cluster, job, 60)
        await cluster.partition(lost, from_="store")
        await cluster.advance(10)
        (other,) = {node.name for node in cluster.nodes} - {lost}
        assert bodies.notes == [f"{lost} begins", f"{lost} lost", f"{other} begins"]
        assert (cluster.node(lost).is_healthy, cluster.leader.name) == (False, other)
        await cluster.heal(lost)
        await cluster.advance(3)
        assert cluster.node(lost).is_healthy
        await cluster.run_until_idle()
        cluster.assert_never_concurrent(job)
        assert {run.end for run in cluster.runs(job)} == {"lost", "returned"}


async def test_a_call_that_cannot_reach_the_store_is_given_up_after_half_a_minute() -> None:
    async with TestCluster(nodes=1, jobs=[Job("quick", Bodies())]) as cluster:
        node = cluster.leader
        await cluster.partition(node)
        began = cluster.clock.elapsed()
        with pytest.raises(StoreUnavailableError, match="cut the node off"):
            await cluster.clock.run(node.schedule("quick", allow_unknown=True))
        assert 28 < cluster.clock.elapsed() - began <= 30
        with pytest.raises(NodeStateError, match="no node can be reached"):
            await cluster.schedule("quick")


async def test_a_leader_cut_off_from_the_coordinator_runs_jobs_and_leads_no_more() -> None:
    bodies = Bodies()
    job = Job("long", bodies)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        deposed = cluster.leader
        await cluster.partition(deposed, from_="coordinator")
        await cluster.advance(10)
        assert cluster.leader is not deposed
        assert deposed.is_healthy
        await cluster.kill(cluster.leader)
        await cluster.advance(10)
        with pytest.raises(NodeStateError, match="no node leads"):
            _ = cluster.leader
        instance = await cluster.schedule(job)
        await cluster.run_until_idle()
        cluster.assert_completed(instance)
        assert bodies.notes == [f"{deposed.name} begins", f"{deposed.name} ends"]
        await cluster.heal()
        assert await cluster.elected() is deposed


async def test_a_leader_whose_clock_is_wrong_leads_no_more() -> None:
    async with TestCluster(nodes=3) as cluster:
        wrong = cluster.leader
        await cluster.skew(wrong, "30s")
        await cluster.advance(10)
        assert cluster.leader is not wrong
        assert wrong.is_healthy
        assert wrong.clock.time_us() == cluster.clock.time_us() + 30_000_000
        for other in {node.name for node in cluster.nodes} - {wrong.name}:
            await cluster.kill(other)
        await cluster.advance(15)
        assert cluster.leader is wrong  # of its own clock alone it can say nothing


@pytest.mark.parametrize("by", ["-30s", "30s"])
async def test_a_node_whose_clock_is_wrong_knows_how_long_its_peers_have_been_silent(by: str) -> None:
    async with TestCluster(nodes=3) as cluster:
        await cluster.skew("node-2", by)
        await cluster.advance(10)
        for node in cluster.nodes:
            silent = [view.age_us / 1_000_000 for view in await node.nodes()]
            assert len(silent) == 3
            assert max(silent) < 3, (node.name, silent)


async def test_a_delayed_job_is_not_run_early_by_a_node_whose_clock_is_ahead() -> None:
    job = Job("delayed", Bodies(), after="1m")
    async with TestCluster(nodes=3, jobs=[job], start="2026-03-01T00:00+00:00") as cluster:
        await cluster.skew("node-2", "45s")
        await cluster.advance(10)
        await cluster.schedule(job)
        await cluster.advance("2m")
        (run,) = cluster.runs(job)
        due = datetime(2026, 3, 1, 0, 1, 10, tzinfo=UTC)
        assert timedelta(0) <= datetime.fromtimestamp(run.began_us / 1e6, UTC) - due < timedelta(seconds=2)


@pytest.mark.parametrize(("how", "stored"), [("error", 0), ("lost answer", 1)])
async def test_a_schedule_whose_answer_is_lost_was_done_and_one_that_fails_was_not(how: str, stored: int) -> None:
    job = Job("once", Bodies())
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        await cluster.store_fails("enqueue", 1, how="error" if how == "error" else "lost answer")
        with pytest.raises(StoreUnavailableError, match="the test l"):
            await cluster.schedule(job)
        await cluster.run_until_idle()
        assert len(cluster.runs(job)) == stored
        await cluster.schedule(job)
        await cluster.run_until_idle()
        assert len(cluster.runs(job)) == stored + 1


@pytest.mark.parametrize("how", ["lost answer", "repeated", "late", "error"])
async def test_a_run_is_committed_once_if_answers_are_lost(how: str) -> None:
    job = Job("once", Bodies())
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        for verb in ("claim", "commit"):
            await cluster.store_fails(verb, 3, how=how)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        instances = [await cluster.schedule(job) for _ in range(4)]
        await cluster.run_until_idle()
        assert sorted(run.instance for run in cluster.runs(job)) == sorted(one.id for one in instances)
        for instance in instances:
            cluster.assert_completed(instance, attempts=1)
        assert sum("claim" in event.text or "turn" in event.text for event in cluster.trace) >= 6


async def test_a_fault_of_one_node_is_none_of_another() -> None:
    job = Job("once", Bodies())
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        await cluster.store_fails("turn", None, node="node-1")
        await cluster.advance(3)
        for _ in range(10):
            await cluster.schedule(job)
        await cluster.run_until_idle()
        assert {run.node for run in cluster.runs(job)} == {"node-2"}


async def test_answers_are_slow_until_they_heal() -> None:
    job = Job("once", Bodies())
    async with TestCluster(nodes=1, jobs=[job]) as cluster:
        await cluster.slow("enqueue", "3s")
        began = cluster.clock.elapsed()
        await cluster.schedule(job)
        assert cluster.clock.elapsed() == pytest.approx(began + 3)
        await cluster.heal()
        await cluster.schedule(job)
        assert cluster.clock.elapsed() == pytest.approx(began + 3)


async def test_verbs_of_durable_bodies_fail_as_others() -> None:
    page = Job("page", Bodies())

    async def parent(context: Context = INJECTED) -> None:
        await context.call("child", page.call())

    job = Job("parent", parent, max_retries=2, backoff=0)
    async with TestCluster(nodes=1, jobs=[job, page]) as cluster:
        verbs = ("require_layout", "spawn")
        for verb in verbs:
            await cluster.store_fails(verb, how="lost answer")
        instance = await cluster.schedule(job)
        await cluster.run_until_idle()
        cluster.assert_completed(instance)
        assert {verb for verb, _ in cluster.faults.happened} == {*verbs}


async def test_faults_that_cannot_be_are_refused() -> None:
    async with TestCluster(nodes=1) as cluster:
        with pytest.raises(OptionError, match="verb: expected a verb of the store contract"):
            await cluster.store_fails("enqeue")
        with pytest.raises(OptionError, match="how: expected one of"):
            await cluster.store_fails("enqueue", how="often")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(NodeStateError, match="no node is called 'node-9'"):
            await cluster.kill("node-9")
        await cluster.kill("node-1")
        with pytest.raises(NodeStateError, match="does not run"):
            await cluster.pause("node-1")


async def test_a_body_may_kill_its_own_node() -> None:
    after: list[int] = []

    async with TestCluster(nodes=2) as cluster:

        async def suicidal(context: Context = INJECTED) -> None:
            if len(cluster.runs("suicidal")) == 1:
                assert context.instance is not None
                await cluster.kill(str(context.instance.node))
            after.append(len(cluster.runs("suicidal")))

        job = Job("suicidal", suicidal)
        for node in cluster.nodes:
            node.register(job)
        instance = await cluster.schedule(job)
        await cluster.run_until_idle()
        assert after == [2]
        cluster.assert_completed(instance)
        assert cluster.runs(job)[0].end == "killed"


async def test_a_killed_node_s_thread_holds_no_time() -> None:
    gate = threading.Event()

    def blocked() -> None:
        gate.wait(60)

    job = Job("blocked", blocked)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        await cluster.schedule(job)
        while not cluster.runs(job):  # noqa: ASYNC110  # the thread holds the time of the cluster
            await asyncio.sleep(0)  # the thread holds the cluster's time
        await cluster.pause(cluster.runs(job)[0].node)
        await cluster.advance(1)
        await cluster.resume(cluster.runs(job)[0].node)
        await cluster.kill(cluster.runs(job)[0].node)
        await cluster.advance(1)
        gate.set()
        await cluster.run_until_idle()
        assert [run.end for run in cluster.runs(job)] == ["killed", "returned"]


async def test_latency_takes_time_and_lets_a_kill_meet_a_node_between_its_requests() -> None:
    cut_short = 0
    for seed in range(12):
        job = Job("once", Bodies())
        async with TestCluster(nodes=2, jobs=[job], seed=seed, latency="20ms") as cluster:
            node, other = cluster.nodes
            adding = asyncio.gather(node.schedule_many(job.call() for _ in range(3)))
            await cluster.advance(0.02 * seed)
            stored = len(cluster.instances())
            cut_short += not adding.done() and stored > 0
            await cluster.kill(node)
            adding.cancel()
            await asyncio.wait([adding])
            await cluster.run_until_idle()
            assert all(row.state is State.COMPLETED for row in cluster.instances().values())
            assert (await cluster.clock.run(other.count())) == len(cluster.instances())
            for id in cluster.instances():
                cluster.assert_never_concurrent(id)
    assert cut_short > 0


async def test_requests_of_nodes_come_between_one_another() -> None:
    job = Job("once", Bodies())
    async with TestCluster(nodes=3, jobs=[job], latency="2ms") as cluster:
        instances = [await cluster.schedule(job) for _ in range(40)]
        await cluster.run_until_idle()
        assert len({run.node for run in cluster.runs(job)}) > 1
        for instance in instances:
            assert len(cluster.runs(instance)) == 1
            cluster.assert_completed(instance, attempts=1)


async def test_a_restarted_process_is_on_the_same_machine() -> None:
    async with TestCluster(nodes=2) as cluster:
        await cluster.skew("node-1", "20s")
        await cluster.partition("node-1")
        await cluster.kill("node-1")
        with pytest.raises(StoreUnavailableError):
            await cluster.restart("node-1")
        await cluster.heal()
        again = await cluster.restart("node-1")
        assert again.clock.time_us() == cluster.clock.time_us() + 20_000_000
        assert {node.name for node in cluster.nodes} == {"node-1", "node-2"}


async def test_a_cluster_is_idle_once_all_was_cleared() -> None:
    job = Job("later", Bodies(), after="5h")
    async with TestCluster(nodes=1, jobs=[job]) as cluster:
        await cluster.schedule(job)
        with pytest.raises(AssertionError, match=r"(?s)not idle after 1h of virtual time: later .*Scheduled"):
            await cluster.run_until_idle()
        await cluster.clock.run(cluster.leader.clear())
        await cluster.run_until_idle()
        assert not cluster.runs()


async def test_an_overdue_job_waits_for_a_worker_over_jumps() -> None:
    job = Job("long", Bodies())
    async with TestCluster(nodes=2, jobs=[job], workers=1) as cluster:
        for _ in range(2):
            await cluster.schedule(job, 6 * 3600)
        await cluster.advance(1)
        delayed = await cluster.schedule(job.with_options(after="1h"), 0)
        await cluster.advance("5h")
        cluster.assert_state(delayed, State.SCHEDULED)
        await cluster.run_until_idle("2h")
        cluster.assert_completed(delayed)
        assert max(run.began_us for run in cluster.runs(job)) == pytest.approx(
            min(run.ended_us or 0 for run in cluster.runs(job)), abs=100_000
        )
