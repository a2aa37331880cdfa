"""Nodes on real servers: what was promised on virtual time, with Valkey and with clusters in its place."""

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    Context,
    Instance,
    Job,
    JobCancelled,
    JobFailed,
    Node,
    OptionError,
    Query,
    State,
    StoreUnavailableError,
)
from peerjob.store.lua.client.driver import prefix
from support.peers import check_histories, everything
from support.server_stalls import ServerStalls
from support.servers import Server, ServerCluster
from support.stalls import Stalls, now_us
from support.waiting import PATIENCE, until

StartNode = Callable[..., Any]


async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


SLEEP = Job("sleep", sleep)


@pytest.fixture(params=["valkey"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
async def start_node(server: Server, namespace: str) -> AsyncIterator[StartNode]:
    """To be called with jobs and options of a node; the nodes stop with the test."""
    async with AsyncExitStack() as nodes:

        async def start(*jobs: Any, **options: Any) -> Node:
            settings: dict[str, Any] = {"store": server.url, "namespace": namespace, "jobs": jobs, **options}
            return await nodes.enter_async_context(Node(settings.pop("store"), **settings))

        yield start


async def test_02_and_20_a_job_starts_milliseconds_after_it_was_scheduled(
    start_node: StartNode, server: Server
) -> None:
    started: dict[str, int] = {}

    async def note(instance: Instance[Any] = INJECTED) -> None:
        started[instance.id] = worker.clock.time_us()

    job = Job("note", note)
    worker: Node = await start_node(job, name="worker")
    web: Node = await start_node(workers=0, name="web")
    delays: list[float] = []
    with ServerStalls(server.url) as watched, Stalls(others=watched.spans) as stalls:
        for number in range(20):
            await asyncio.sleep(0.02 + number / 1000)  # idle again
            at_us = web.clock.time_us()
            instance = await web.schedule(job)
            await instance.wait(timeout=PATIENCE)
            delays.append(stalls.took(at_us, started[instance.id]))
    print(f"schedule to start: median {statistics.median(delays) * 1000:.1f} ms, most {max(delays) * 1000:.1f} ms")
    assert statistics.median(delays) < 0.1


async def test_04_and_05_failures_are_retried_and_end_as_they_should(start_node: StartNode) -> None:
    runs: Counter[int] = Counter()

    def fail(times: int) -> int:
        runs[times] += 1
        if runs[times] <= times:
            raise ValueError(f"run {runs[times]}")
        return runs[times]

    job = Job("fail", fail, max_retries=3, backoff=0.05)
    node: Node = await start_node(job)
    good, bad = await node.schedule(job, 3), await node.schedule(job, 10)
    assert await good.result(timeout=PATIENCE) == 4
    with pytest.raises(JobFailed, match="run 4"):
        await bad.result(timeout=PATIENCE)
    assert (good.attempts, bad.attempts) == (4, 4)


async def test_07_nodes_never_run_one_instance_at_the_same_time(start_node: StartNode) -> None:
    runs, by = Counter[str](), Counter[str]()

    async def work(instance: Instance[Any] = INJECTED) -> None:
        runs[instance.id] += 1
        by[str(instance.node)] += 1
        await asyncio.sleep(0.002)

    job = Job("work", work)
    nodes = [await start_node(job, name=f"node-{number}", workers=5) for number in range(3)]
    instances = await nodes[0].schedule_many(job.call() for _ in range(1500))
    await nodes[0].wait(timeout=PATIENCE)
    assert runs == {one.id: 1 for one in instances}
    assert len(by) == 3
    check_histories(await everything(nodes[0]))


async def test_09_cancel_reaches_what_runs_on_another_node(start_node: StartNode, server: Server) -> None:
    begun, reasons = list[str](), list[str | None]()

    async def long(ctx: Context = INJECTED, instance: Instance[Any] = INJECTED) -> None:
        begun.append(instance.id)
        try:
            await asyncio.sleep(30)
        finally:
            reasons.append(ctx.reason)

    job = Job("long", long)
    worker: Node = await start_node(job, name="worker", workers=3)
    web: Node = await start_node(workers=0, name="web")
    instances = await web.schedule_many(job.call() for _ in range(6))
    other = await web.schedule(Job("unknown"))

    async def three_run() -> bool:
        return await worker.count(Query(state=State.PROCESSING)) == len(begun) == 3

    async def all_ended() -> bool:
        return len(reasons) == 3

    async def all_free() -> bool:
        return [each.instance for each in worker.workers()] == [None] * 3

    await until(three_run)
    with ServerStalls(server.url) as watched, Stalls(others=watched.spans) as stalls:
        at_us = web.clock.time_us()
        cancelled = await web.cancel_instances(Query(kind="long"))
        await until(all_ended)
        assert stalls.took(at_us) < 1.5
    assert {one.id for one in cancelled} == {one.id for one in instances}
    assert reasons == ["user"] * 3
    for one in instances:
        with pytest.raises(JobCancelled):
            await one.result(timeout=PATIENCE)
    assert (await other.refresh()).state is State.SCHEDULED
    await until(all_free)


async def test_11_an_unknown_kind_hides_nothing_behind_it(start_node: StartNode) -> None:
    node: Node = await start_node(SLEEP, workers=2)
    await node.schedule_many(Job("unknown", priority=0).call(number) for number in range(300))
    assert await (await node.schedule(SLEEP, 0.01)).result(timeout=PATIENCE) == 0.01
    node.register(Job("unknown", lambda number: number))
    await node.wait(timeout=PATIENCE)
    assert await node.count(Query(kind="unknown", state=State.COMPLETED)) == 300


async def test_16_clear_touches_its_own_namespace_only(start_node: StartNode, namespace: str) -> None:
    here: Node = await start_node(SLEEP)
    there: Node = await start_node(SLEEP, namespace=f"{namespace}x")
    for node in (here, there):
        await (await node.schedule(SLEEP, 0)).wait(timeout=PATIENCE)
        await node.schedule(SLEEP.with_options(after=60), 0)
    await here.clear()
    assert (await here.count(), await there.count()) == (0, 2)
    assert await (await here.schedule(SLEEP, 0)).result(timeout=PATIENCE) == 0
    await there.clear()


async def test_17_and_18_lookups_filters_and_composite_states(start_node: StartNode) -> None:
    def work(ok: bool, instance: Instance[Any] = INJECTED) -> str:
        instance.log.info("ok is %s", ok)
        if not ok:
            raise ValueError
        return "fine"

    job = Job("work", work)
    node: Node = await start_node(job)
    old = [await node.schedule(job, ok) for ok in (True, False)]
    await node.wait(timeout=PATIENCE)
    await asyncio.sleep(0.01)
    new = [await node.schedule(job, ok) for ok in (True, False)]
    await node.wait(timeout=PATIENCE)
    waiting = await node.schedule(job.with_options(after=60), True)
    middle = new[0].created_at

    async def found(query: Query) -> tuple[list[str], list[str], list[str]]:
        return (
            [one.id for one in await node.lookup_instances(query)],
            list(dict.fromkeys(str(entry.uuid) for entry in await node.lookup_history(query))),
            [str(entry.uuid) for entry in await node.lookup_logs(query)],
        )

    ids = [one.id for one in (*old, *new)]
    assert await found(Query(state=State.FINAL)) == (ids, ids, ids)
    assert await found(Query(after=middle, state=State.FINAL)) == (ids[2:],) * 3
    assert await found(Query(before=middle)) == (ids[:2],) * 3
    assert (await found(Query(state=[State.TERMINATED, State.ACTIVE])))[0] == [ids[1], ids[3], waiting.id]
    first = await node.lookup_instance(ids[0], job)
    assert (await first.result(), first.attempts) == ("fine", 1)
    assert first.completed_at is not None
    assert await node.count(Query(state=State.FINAL)) == 4


async def test_19_equal_priority_and_due_time_run_in_the_order_they_were_scheduled(start_node: StartNode) -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    handle = Job("note")
    node: Node = await start_node(workers=1)
    for number in range(30):
        await node.schedule(handle, number)
    await node.schedule_many(handle.call(number) for number in range(30, 90))
    await node.schedule(handle.with_options(priority=-1), -1)
    node.register(Job("note", note))
    await node.wait(timeout=PATIENCE)
    assert ran == [-1, *range(90)]


async def test_22_a_record_that_cannot_be_read_never_stops_the_queue(
    start_node: StartNode, server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    node: Node = await start_node(workers=1)
    instances = [await node.schedule(Job("sleep"), 0.001) for _ in range(10)]
    spoiled = instances[::3]
    for one in spoiled:
        server.command("SET", f"{prefix(namespace)}i:{one.id}", "something foreign")
    node.register(SLEEP)
    await node.wait(timeout=PATIENCE)
    for one in instances:
        if one not in spoiled:
            assert await one.result(timeout=PATIENCE) == 0.001
    assert (await node.stats()).undecodable == len(spoiled)
    assert caplog.text.count("set aside") == len(spoiled)


async def test_many_results_logs_and_progress_of_every_size(start_node: StartNode) -> None:
    async def work(size: int, ctx: Context = INJECTED, instance: Instance[Any] = INJECTED) -> str:
        ctx.progress(0.5, "half")
        instance.log.info("x" * min(size, 10_000), extra={"size": size, "text": "\ud800"})
        await asyncio.sleep(0.15)
        return "y" * size

    job = Job("work", work)
    node: Node = await start_node(job, workers=20)
    sizes = [0, 1, 1000, 100_000, 900_000] * 4
    instances = [await node.schedule(job, size) for size in sizes]
    for size, one in zip(sizes, instances, strict=True):
        assert len(await one.result(timeout=PATIENCE)) == size
        assert one.progress is not None
        (line,) = await one.logs()
        assert line.fields["size"] == size


async def test_local_callables_are_refused_where_others_share_the_store(start_node: StartNode) -> None:
    node: Node = await start_node(SLEEP)
    with pytest.raises(OptionError, match="importable"):
        await node.schedule(SLEEP.with_options(on_complete=lambda instance, result: None), 1)
    assert await node.count() == 0


async def test_a_server_that_is_not_there_is_named_within_five_seconds() -> None:
    there = "127.0.0.1:1"
    urls = (f"redis://{there}", f"valkey://{there}", f"valkey+glide://{there}", f"redis://user:secret@{there}/0")
    with Stalls() as stalls:
        at_us = now_us()
        errors = await asyncio.gather(*(Node(url).start() for url in urls), return_exceptions=True)
        assert stalls.took(at_us) < 5.5
    for error in errors:
        assert isinstance(error, StoreUnavailableError)
        assert "127.0.0.1:1" in str(error)
        assert "secret" not in str(error)


# -- clusters --------------------------------------------------------------------------------------------------------


async def test_a_node_runs_on_a_cluster_of_three_shards(server_cluster: ServerCluster, namespace: str) -> None:
    runs: Counter[int] = Counter()

    def work(number: int, instance: Instance[Any] = INJECTED) -> int:
        runs[number] += 1
        instance.log.info("number %d", number)
        if number % 10 == 9 and runs[number] == 1:
            raise ValueError("once")
        return number

    job = Job("work", work, max_retries=1)
    long = Job("long", sleep)
    async with (
        Node(server_cluster.url, jobs=[job, long], namespace=namespace, name="a", workers=5) as a,
        Node(server_cluster.url, jobs=[job, long], namespace=namespace, name="b", workers=5) as b,
        Node(server_cluster.url, jobs=[job], namespace=f"{namespace}-other", name="c") as other,
    ):
        instances = await a.schedule_many(job.call(number) for number in range(300))
        delayed = await b.schedule(job.with_options(after=0.3, priority=0), 1000)
        doomed = await b.schedule(long, 60)
        elsewhere = await other.schedule(job, 5000)
        assert [await one.result(timeout=PATIENCE) for one in instances] == list(range(300))
        assert await delayed.result(timeout=PATIENCE) == 1000
        assert await elsewhere.result(timeout=PATIENCE) == 5000
        assert await a.cancel_instance(doomed.id)
        await a.wait(timeout=PATIENCE)
        assert [line.message for line in await instances[9].logs()] == ["number 9", "number 9"]
        assert {view.info.name for view in await a.nodes()} == {"a", "b"}
        assert (await a.stats()).total(State.COMPLETED) == 301
        check_histories(await everything(a))
        await other.clear()
        assert await a.count() == 302
