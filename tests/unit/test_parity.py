"""Where go-job is wrong and peerjob must be right: one test for each point that this release covers.

Points that need servers, processes or kills are tested in tests/integration, mostly in test_faults_*.py.
"""

import asyncio
import threading
import uuid
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    Context,
    Fail,
    Filter,
    Instance,
    Job,
    JobCancelled,
    JobFailed,
    JobGroup,
    Query,
    ScheduleError,
    State,
    SystemClock,
)
from peerjob.model.clock import to_datetime
from peerjob.model.record import NewInstance
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node, scheduled
from support.factories import flaky_store, lines_of, memory_store, notes_of, running_nodes, shared_url, states_of


def broken(*_: object) -> None:
    raise ValueError("broken")


async def test_01_cron_jobs_fire(clock: VirtualClock) -> None:
    ran: list[datetime | None] = []

    def remember(context: Context) -> None:
        ran.append(context.nominal_at)

    async with running_node(Job("often", remember, cron="*/3 * * * *"), clock=clock):
        await clock.advance("10m")

    assert [moment.minute for moment in ran if moment is not None] == [3, 6, 9]


async def test_02_a_job_scheduled_with_no_time_runs_at_once(clock: VirtualClock) -> None:
    async with running_node(Job("now", lambda: "done"), clock=clock) as node:
        before = clock.elapsed()
        instance = await node.schedule("now")

        assert await instance.result() == "done"
        assert clock.elapsed() == before


async def test_03_no_processor_is_needed(clock: VirtualClock) -> None:
    async with running_node(Job("good", lambda: 1), Job("bad", broken), clock=clock) as node:
        good, bad = await node.schedule("good"), await node.schedule("bad")
        await drain(node)

        assert (await good.refresh()).state is State.COMPLETED
        assert (await bad.refresh()).state is State.TERMINATED


async def test_03_a_processor_that_raises_is_logged_and_changes_nothing(clock: VirtualClock) -> None:
    def on_complete(instance: Instance[Any], result: object) -> None:
        raise RuntimeError(f"no place for {result}")

    async with running_node(Job("good", lambda: 7, on_complete=on_complete), clock=clock) as node:
        instance = await node.schedule("good")
        assert await clock.run(instance.result()) == 7
        await clock.advance(2)

        assert any("RuntimeError: no place for 7" in line for line in await lines_of(instance))
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Completed"]


async def test_04_an_exception_is_a_failure(clock: VirtualClock) -> None:
    async with running_node(Job("bad", broken), clock=clock) as node:
        instance = await node.schedule("bad")

        with pytest.raises(JobFailed, match="broken") as caught:
            await clock.run(instance.result())
        assert caught.value.type == "ValueError"
        assert "in broken" in caught.value.traceback


async def test_05_max_retries_is_the_number_of_runs_after_the_first(clock: VirtualClock) -> None:
    runs: Counter[int] = Counter()

    def fail(retries: int) -> None:
        runs[retries] += 1
        raise ValueError

    retried = Job("fail", fail, backoff=1)
    async with running_node(retried, clock=clock) as node:
        instances = {n: await node.schedule(retried.with_options(max_retries=n), n) for n in (0, 1, 4)}
        await drain(node)

        assert runs == {0: 1, 1: 2, 4: 5}
        for n, instance in instances.items():
            assert ((await instance.refresh()).state, instance.attempts) == (State.TERMINATED, n + 1)


async def test_05_for_ever_is_for_ever(clock: VirtualClock) -> None:
    runs = 0

    def fail_often() -> int:
        nonlocal runs
        runs += 1
        if runs <= 200:
            raise ValueError(runs)
        return runs

    async with running_node(Job("stubborn", fail_often, max_retries=None, backoff=1), clock=clock) as node:
        instance = await node.schedule("stubborn")

        assert await clock.run(instance.result()) == 201
        assert instance.attempts == 201


async def test_05_attempts_and_overrides_survive_in_the_store(clock: VirtualClock) -> None:
    url = shared_url()
    job = Job("fail", broken)
    async with running_node(job, clock=clock, store=url) as node:
        instance = await node.schedule(job.with_options(max_retries=2, backoff=60, priority=-3))
        await clock.advance(1)
        assert ((await instance.refresh()).state, instance.attempts) == (State.SCHEDULED, 1)

    async with running_node(job, clock=clock, store=url) as node:
        instance = await node.lookup_instance(instance.id)
        await drain(node)

        assert (await instance.refresh()).attempts == 3
        assert instance.priority == -3
        assert [note for note in await notes_of(instance) if "retry" in note] == [
            "Scheduled: retry 1 in 1m: ValueError: broken",
            "Scheduled: retry 2 in 1m: ValueError: broken",
        ]


async def test_06_a_backoff_holds_no_worker_and_waits_in_the_store(clock: VirtualClock) -> None:
    url = shared_url()
    jobs = [Job("fail", broken, max_retries=1, backoff="5m"), Job("quick", lambda: "done")]
    async with running_node(jobs, clock=clock, store=url, workers=1) as node:
        instance = await node.schedule("fail")
        await clock.advance(1)

        assert await (await node.schedule("quick")).result() == "done"
        assert [worker.instance for worker in node.workers()] == [None]
        waiting = await scheduled(node, "fail")
        assert [(one.id, one.due_at) for one in waiting] == [
            (instance.id, to_datetime(clock.time_us()) + timedelta(minutes=4, seconds=59))
        ]

    async with running_node(jobs, clock=clock, store=url) as node:
        await drain(node, limit="2h")
        assert (await node.lookup_instance(instance.id)).attempts == 2


async def test_07_two_nodes_never_run_one_instance_at_the_same_time(clock: VirtualClock) -> None:
    runs: Counter[str] = Counter()
    at_once: set[str] = set()
    nodes_seen: Counter[str] = Counter()

    async def slow(instance: Instance[Any] = INJECTED) -> None:
        assert instance.id not in at_once
        at_once.add(instance.id)
        runs[instance.id] += 1
        nodes_seen[str(instance.node)] += 1
        await asyncio.sleep(clock.random.random())
        at_once.remove(instance.id)

    job = Job("slow", slow)
    async with running_nodes(clock, "a", "b", "c", jobs=job, workers=5) as (node, *_):
        instances = await node.schedule_many(job.call() for _ in range(300))
        await drain(node)

        assert runs == {instance.id: 1 for instance in instances}
        assert await node.count(Query(state=State.COMPLETED)) == 300
        assert set(nodes_seen) == {"a", "b", "c"}


async def test_08_what_a_vanished_node_ran_is_run_by_its_peers(clock: VirtualClock) -> None:
    url, runs = shared_url(), Counter[str]()

    async def long(instance: Instance[Any] = INJECTED) -> str:
        runs[instance.id] += 1
        await asyncio.sleep(60)
        return str(instance.node)

    job, flaky = Job("long", long), flaky_store(clock, url)
    async with running_node(job, clock=clock, store=flaky.store, name="vanishing") as vanishing:
        instances = await vanishing.schedule_many(job.call() for _ in range(10))
        await clock.advance(1)
        assert len(runs) == 10
        flaky.fail()
        async with running_node(job, clock=clock, store=url, name="heir") as heir:
            await drain(heir)
            for instance in instances:
                found = await heir.lookup_instance(instance.id)
                assert (found.state, await found.result(), found.attempts) == (State.COMPLETED, "heir", 1)
                assert found.processed_at is not None
                taken_back = (found.processed_at - instance.created_at).total_seconds()
                assert taken_back < 1 + heir.lease_ttl + 1
        flaky.heal()


async def test_09_cancel_touches_what_matches_queued_or_running_on_any_node_and_nothing_else(
    clock: VirtualClock,
) -> None:
    ended: Counter[str] = Counter()

    async def wait(tag: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended[tag] += 1
            raise

    job = Job("wait", wait)
    async with running_nodes(clock, "a", "b", jobs=job, workers=2) as (a, b):
        doomed = await a.schedule_many(job.with_options(tags=["doomed"]).call("doomed") for _ in range(6))
        spared = await a.schedule_many(job.with_options(tags=["spared"]).call("spared") for _ in range(6))
        await clock.advance(0.5)
        assert {one.node for one in await a.lookup_instances(Query(state=State.PROCESSING))} == {"a", "b"}

        cancelled = await clock.run(b.cancel_instances(Query(tag="doomed")))
        assert sorted(one.id for one in cancelled) == [one.id for one in doomed]
        assert all(one.state is State.CANCELLED for one in cancelled)
        await drain(a)

        assert ended == {"doomed": 4}
        assert {(await one.refresh()).state for one in doomed} == {State.CANCELLED}
        assert {(await one.refresh()).state for one in spared} == {State.COMPLETED}


async def test_09_a_cancelled_job_stays_cancelled(clock: VirtualClock) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
        return "done after all"

    async with running_node(Job("stubborn", stubborn, max_retries=3), clock=clock) as node:
        instance = await node.schedule("stubborn")
        await clock.advance(1)
        assert await instance.cancel()
        assert not await instance.cancel()
        await clock.advance(60)

        with pytest.raises(JobCancelled):
            await instance.result()
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Cancelled"]


async def test_10_stop_hands_unfinished_work_back(clock: VirtualClock) -> None:
    url = shared_url()
    stopped = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    job = Job("long", long)
    async with running_node(job, clock=clock, store=url, workers=1) as node:
        running, queued = await node.schedule(job), await node.schedule(job)
        await clock.advance(1)
        await clock.run(node.stop(grace=2))
        assert stopped.is_set()
        assert node.workers() == []

    async with running_node(clock=clock, store=url, workers=0) as looker:
        found = await looker.lookup_instance(running.id)
        assert (found.state, found.attempts, found.crashes) == (State.SCHEDULED, 0, 0)
        assert (await looker.lookup_instance(queued.id)).state is State.SCHEDULED
        assert (await notes_of(found))[-1] == "Scheduled: node stopped"


async def test_10_scaling_down_stops_workers(clock: VirtualClock) -> None:
    busy = most = 0

    async def work() -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(1)
        busy -= 1

    job = Job("work", work)
    async with running_node(job, clock=clock, workers=8) as node:
        await node.schedule_many(job.call() for _ in range(16))
        await clock.advance(0.5)
        await node.resize_workers(2)
        assert busy == 8
        await clock.advance(1)
        most = 0
        await drain(node)

        assert most == 2
        assert len(node.workers()) == node.num_workers == 2


async def test_11_an_unknown_kind_waits_and_hides_nothing_behind_it(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(Job("known", lambda: "done"), clock=clock, store=flaky.store) as node:
        unknown = [await node.schedule(Job("unknown", priority=0), number) for number in range(50)]
        known = await node.schedule("known")

        assert await known.result() == "done"
        await clock.advance(5)
        turns = flaky.calls["turn"]
        await clock.advance(60)
        assert flaky.calls["turn"] - turns <= 70
        assert {str((await one.refresh()).state) for one in unknown} == {"Scheduled"}

        node.register(Job("unknown", lambda number: number))
        assert [await clock.run(one.result()) for one in unknown] == list(range(50))


@pytest.mark.parametrize(
    "backlog", [200, pytest.param(2000, marks=pytest.mark.matrix("a shorter backlog stays in make test"))]
)
async def test_12_the_calls_that_drain_a_backlog_grow_with_its_length_alone(clock: VirtualClock, backlog: int) -> None:
    flaky = flaky_store(clock)

    async def nothing() -> None:
        return

    job = Job("nothing", nothing)
    async with running_node(clock=clock, store=flaky.store) as node:
        await node.schedule_many(job.call() for _ in range(backlog))
        before = flaky.calls.total()
        node.register(job)
        await drain(node)

        assert await node.count(Query(state=State.COMPLETED)) == backlog
        assert flaky.calls.total() - before <= 30 + backlog / 4


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("61 * * * *", "61"),
        ("* * *", "fields"),
        ("nonsense", "nonsense"),
        ("", "cron"),
        ("0 0 31 2 *", "never"),
        ("@every nothing", "nothing"),
        ("TZ=Nowhere/Land 0 0 * * *", "Nowhere/Land"),
    ],
)
async def test_14_bad_cron_is_refused_where_it_is_given(clock: VirtualClock, spec: str, says: str) -> None:
    job = Job("tick", lambda: None)
    async with running_node(job, clock=clock) as node:
        for give in (
            lambda: Job("tock", lambda: None, cron=spec),
            lambda: job.with_options(cron=spec),
            lambda: JobGroup(cron=spec),
        ):
            with pytest.raises(ScheduleError, match=says):
                give()
        with pytest.raises(ScheduleError, match="exclude"):
            job.with_options(cron="* * * * *", at="2026-01-01T00:00:00Z")
        with pytest.raises(ScheduleError, match="one run"):
            await node.schedule(job.with_options(every="5s"))
        assert await node.count() == 0
        assert await node.schedules() == []


async def test_15_ids_are_uuidv7_and_grow(clock: VirtualClock) -> None:
    job = Job("any", lambda: None)
    async with running_node(clock=clock, workers=0) as node:
        first = await node.schedule(job)
        await clock.advance(0.005)
        rest = await node.schedule_many(job.call() for _ in range(1000))
        ids = [first.uuid, *(one.uuid for one in rest)]

        assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
        assert sorted(ids) == ids
        assert len(set(ids)) == 1001
        assert ids[1].int >> 80 == clock.time_us() // 1000


async def test_16_clear_touches_its_namespace_only_and_jobs_stay_registered(clock: VirtualClock) -> None:
    url, job = shared_url(), Job("work", lambda: "done")
    async with (
        running_node(job, clock=clock, store=url, namespace="a") as a,
        running_node(job, clock=clock, store=url, namespace="ab") as ab,
    ):
        for node in (a, ab):
            await (await node.schedule(job)).result()
            await node.schedule(job.with_options(after=60))
        await a.clear()

        assert (await a.count(), await ab.count()) == (0, 2)
        assert a.jobs() == [job]
        assert await (await a.schedule(job)).result() == "done"


async def test_17_a_lookup_returns_each_instance_once_as_it_is_now(clock: VirtualClock) -> None:
    def work(what: str) -> str:
        if what == "fail":
            raise Fail("on purpose")
        return what

    job = Job("work", work, max_retries=2)
    async with running_node(job, clock=clock) as node:
        fine, failed = await node.schedule(job, "fine"), await node.schedule(job, "fail")
        later = await node.schedule(job.with_options(after="1h"), "later")
        await clock.advance(10)
        found = {one.id: one for one in await node.lookup_instances()}

        assert list(found) == [fine.id, failed.id, later.id]
        assert await found[fine.id].result() == "fine"
        assert found[fine.id].attempts == 1
        assert found[fine.id].completed_at is not None
        error = found[failed.id].error
        assert error is not None
        assert (error.type, error.message) == ("peerjob.Fail", "on purpose")
        assert found[failed.id].terminated_at is not None
        assert (found[later.id].state, found[later.id].attempts) == (State.SCHEDULED, 0)
        assert found[later.id].due_at - found[later.id].created_at == timedelta(hours=1)


async def test_18_filters_with_only_after_and_composite_states_work_on_all_three(clock: VirtualClock) -> None:
    def work(ok: bool, instance: Instance[Any] = INJECTED) -> None:
        instance.log.info("ran with %s", ok)
        if not ok:
            raise ValueError

    job = Job("work", work)
    async with running_node(job, clock=clock) as node:
        old = [await node.schedule(job, ok) for ok in (True, False)]
        await clock.advance(60)
        middle = to_datetime(clock.time_us())
        new = [await node.schedule(job, ok) for ok in (True, False)]
        waiting = await node.schedule(job.with_options(after="1h"), True)
        await clock.advance(5)

        async def found(query: Query) -> tuple[list[str], list[str], list[str]]:
            return (
                [one.id for one in await node.lookup_instances(query)],
                list(dict.fromkeys(str(entry.uuid) for entry in await node.lookup_history(query))),
                [str(entry.uuid) for entry in await node.lookup_logs(query)],
            )

        ids = [one.id for one in (*old, *new)]
        assert await found(Query(after=middle)) == ([*ids[2:], waiting.id], [*ids[2:], waiting.id], ids[2:])
        assert await found(Query(before=middle)) == (ids[:2], ids[:2], ids[:2])
        assert await found(Query(state=State.FINAL)) == (ids, ids, ids)
        assert await found(Query(state=[State.COMPLETED, "Terminated"], after=middle)) == (ids[2:],) * 3
        assert (await found(Query(state=State.ERROR)))[0] == [ids[1], ids[3]]
        assert (await found(Query(state="active")))[0] == [waiting.id]
        assert await node.clear_instances(Filter(after=middle)) == 2
        assert [one.id for one in await node.lookup_instances()] == [*ids[:2], waiting.id]


async def test_19_equal_priority_and_due_time_run_in_the_order_they_were_scheduled(clock: VirtualClock) -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    job = Job("note", note)
    handle = Job("note")
    async with running_node(clock=clock, workers=1) as node:
        for number in range(20):
            await node.schedule(handle, number)
        await node.schedule_many(handle.call(number) for number in range(20, 40))
        await node.schedule(handle.with_options(priority=-1), 100)
        await node.schedule(handle.with_options(priority=6), 200)
        node.register(job)
        await drain(node)

        assert ran == [100, *range(40), 200]


async def test_20_from_schedule_to_start_no_time_passes_on_any_idle_node(clock: VirtualClock) -> None:
    started: dict[str, float] = {}

    async def note(instance: Instance[Any] = INJECTED) -> None:
        started[instance.id] = clock.elapsed()

    job = Job("note", note)
    async with (
        running_nodes(clock, "worker", jobs=job, store=(url := shared_url())),
        running_node(clock=clock, store=url, workers=0) as web,
    ):
        for _ in range(5):
            await clock.advance(3.3)  # past every poll, so that only a hint can wake the worker
            instance = await web.schedule(job)
            at = clock.elapsed()
            await clock.run(instance.wait())
            assert started[instance.id] == at
            assert clock.elapsed() == at


async def test_21_what_is_registered_on_every_node_runs_once(clock: VirtualClock) -> None:
    job = Job("nightly", lambda day: day, key=lambda arguments: arguments["day"])
    async with running_nodes(clock, "a", "b", "c", jobs=job) as nodes:
        same = [await node.schedule(job, "monday") for node in nodes]

        assert len({one.id for one in same}) == 1
        assert sum(one.is_new for one in same) == 1
        await drain(nodes[0])
        assert await nodes[0].count() == 1


async def test_21_the_same_recurring_job_on_every_node_and_at_every_restart_is_one_schedule(
    clock: VirtualClock,
) -> None:
    job, url = Job("tick", lambda: None, every="10s"), shared_url()
    for _ in range(3):
        async with running_nodes(clock, "a", "b", "c", jobs=job, store=url):
            await clock.advance("20s")
    async with running_node(clock=clock, store=url) as node:
        (schedule,) = await node.schedules()
        instances = await node.lookup_instances()
        nominal = [one.nominal_at for one in instances]

        assert nominal == [to_datetime(schedule.row.created_us) + timedelta(seconds=10 * n) for n in range(1, 7)]
        assert {one.schedule for one in instances} == {"tick"}


async def test_22_a_record_that_cannot_be_read_never_stops_the_queue(clock: VirtualClock) -> None:
    url, job = shared_url(), Job("work", lambda number: number)
    store = memory_store(clock, url)
    await store.open()
    foreign = "01900000-0000-7000-8000-000000000000"
    await store.enqueue([NewInstance(id=foreign, kind="work", spec=b"\xc1 nothing that we wrote", priority=-9)])
    async with running_node(job, clock=clock, store=url, workers=1) as node:
        instances = [await node.schedule(job, number) for number in range(5)]
        await drain(node)

        assert [await one.result() for one in instances] == list(range(5))
        found = await node.lookup_instance(foreign)
        assert found.state is State.TERMINATED
        assert found.error is not None
        assert "DecodeError" in found.error.type


async def test_threads_are_not_leaked() -> None:
    before = set(threading.enumerate())
    ours: set[threading.Thread] = set()
    job = Job("work", lambda: 1, on_complete=lambda instance, result: None)
    for _ in range(3):
        async with running_node(job, clock=SystemClock()) as node:
            await (await node.schedule("work")).result(timeout=60)
            ours |= {one for one in threading.enumerate() if one not in before and one.name.startswith("peerjob")}
    for thread in ours:
        await asyncio.to_thread(thread.join, 60)  # it may be on its way out

    assert {"peerjob-lease", "peerjob-worker-1"} <= {one.name for one in ours}
    assert not [one.name for one in ours if one.is_alive()]
