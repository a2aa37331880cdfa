"""Scheduling, results, lookups and cancelling: every verb of a manager, as users call it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from peerjob import (
    Call,
    ErrorInfo,
    Event,
    Filter,
    HistoryEntry,
    Instance,
    Job,
    Level,
    LogEntry,
    Manager,
    Node,
    NodeView,
    Progress,
    Query,
    ResultPage,
    ResultTypeError,
    State,
    Stats,
    Worker,
    job,
)


@job
def add(x: int, y: int) -> int:
    return x + y


@job(kind="concat")
async def concat(a: str, b: str, *, separator: str = ", ") -> str:
    return a + separator + b


def untouched(x: int) -> int:
    return x


sum_job = Job("sum", untouched)
handle = Job("runs.elsewhere")


async def results(node: Node) -> None:
    one = await node.schedule(sum_job, 42)
    assert_type(one, Instance[int])
    assert_type(await one.result(timeout=10), int)
    assert_type(await (await node.schedule(add, 1, 2)).result(), int)
    assert_type(await (await node.schedule(concat, "a", "b", separator="; ")).result("5s"), str)
    assert_type(await node.schedule(concat.with_options(after=5, priority=200), "a", "b"), Instance[str])
    assert_type(await node.schedule(add.call(1, 2)), Instance[int])
    assert_type(one.outcome(), int)
    assert_type(await one.wait(timedelta(seconds=5)), Instance[int])
    assert_type(await one.refresh(), Instance[int])
    assert_type(await one.retry(), Instance[int])
    assert_type(await one.cancel(), bool)
    assert_type(await one.run_now(), bool)


@dataclass
class Report:
    pages: int


@job
def report(pages: int) -> Report | None:
    return Report(pages) if pages else None


async def results_of_ones_own_classes(node: Node, instance: Instance[Report]) -> None:
    assert_type(await (await node.schedule(report, 1)).result(), Report | None)
    assert_type((await node.lookup_instance("…", report)).outcome(), Report | None)
    assert_type(node.blocking().schedule(report, 1).result(), Report | None)
    try:
        await instance.result()
    except ResultTypeError as error:
        assert_type(error.raw, object)
        assert_type(error.problems, tuple[str, ...])


async def loose(node: Node) -> None:
    # by kind, and through a handle, everything is text or a value that the wire can carry; checked at run time
    assert_type(await node.schedule("sum", "42"), Instance[Any])
    assert_type(await node.schedule("sum", "?", 42, x=3), Instance[Any])
    assert_type(await node.schedule("elsewhere", 1, allow_unknown=True), Instance[Any])
    assert_type(await node.schedule(handle, 1, two="2"), Instance[Any])
    assert_type(await node.schedule(handle.call(1)), Instance[Any])


async def mistakes(node: Node) -> None:
    await node.schedule(add, "42", 58)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await node.schedule(add, 42)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await node.schedule(add, 42, 58, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await node.schedule(add, 42, z=58)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await node.schedule(concat, "a", "b", "; ")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await node.schedule(add.call(1, 2), 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await node.schedule(untouched, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await node.schedule()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    add.call("42", 58)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add.call(42)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await node.schedule_many([add])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    text: str = await (await node.schedule(add, 1, 2)).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(text)
    node.schedule(add, 1, 2)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    await node.cancel_instances()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Query("sum")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Query(status=State.FINAL)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Query(after="yesterday")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Query(order="random")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Filter(older_than=[1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def many(node: Node) -> None:
    sums = await node.schedule_many(add.call(number, number) for number in range(100))
    assert_type(sums, list[Instance[int]])
    assert_type([await one.result() for one in sums], list[int])
    calls: list[Call[Any]] = [add.call(1, 2), concat.call("a", "b")]
    assert_type(await node.schedule_many(calls), list[Instance[Any]])


async def reading(node: Node, uuid: UUID, since: datetime) -> None:
    assert_type(await node.lookup_instance(uuid), Instance[Any])
    assert_type(await node.lookup_instance(str(uuid), add), Instance[int])
    assert_type(await (await node.lookup_instance(uuid, concat)).result(), str)
    page = await node.lookup_instances(Query(kind="sum", state=State.FINAL, after=since, limit=10))
    assert_type(page, ResultPage[Instance[Any]])
    assert_type(page.cursor, str | None)
    as_sequence: Sequence[Instance[Any]] = page
    print(len(as_sequence))
    several = Query(state=[State.COMPLETED, "terminated"], level=Level.WARN | Level.ERROR, tag="nightly", order="desc")
    assert_type(await node.lookup_instances(several.at(page.cursor)), ResultPage[Instance[Any]])
    async for instance in node.iter_instances(Query(instance=page[0])):
        assert_type(instance, Instance[Any])
    assert_type(await node.lookup_history(Query(uuid=uuid)), ResultPage[HistoryEntry])
    assert_type(await node.lookup_logs(Query(uuid=uuid, level=Level.ERROR)), ResultPage[LogEntry])
    assert_type(await node.count(Query(state="Active")), int)
    stats = await node.stats()
    assert_type(stats, Stats)
    assert_type(stats.total(State.FINAL, kind="sum"), int)
    assert_type(await node.nodes(), list[NodeView])


async def one_instance(instance: Instance[int]) -> None:
    assert_type(instance.uuid, UUID)
    assert_type(instance.kind, str)
    assert_type(instance.state, State)
    assert_type(instance.state.is_final, bool)
    assert_type(instance.args, tuple[Any, ...])
    assert_type(instance.kwargs, dict[str, Any])
    assert_type(instance.attempts, int)
    assert_type(instance.crashes, int)
    assert_type(instance.priority, int)
    assert_type(instance.created_at, datetime)
    for moment in (
        instance.scheduled_at,
        instance.processed_at,
        instance.completed_at,
        instance.terminated_at,
        instance.cancelled_at,
        instance.timed_out_at,
    ):
        assert_type(moment, datetime | None)
    assert_type(instance.node, str | None)
    assert_type(instance.retry_of, UUID | None)
    assert_type(instance.is_new, bool)
    assert_type(instance.error, ErrorInfo | None)
    assert_type(instance.progress, Progress | None)
    if instance.error is not None:
        assert_type(instance.error.traceback, str)
    assert_type(await instance.logs(level=Level.WARN), list[LogEntry])
    assert_type(await instance.history(), list[HistoryEntry])
    instance.log.info("got %s", 42, extra={"answer": True})


async def acting(manager: Manager, node: Node) -> None:
    assert_type(await manager.cancel_instances(Query.all()), list[Instance[Any]])
    assert_type(await manager.retry_instances(Query(state="terminated")), list[Instance[Any]])
    assert_type(await manager.clear_instances(Filter(older_than="30d")), int)
    assert_type(await manager.clear_history(Filter(before=datetime.now(UTC))), int)
    assert_type(await manager.clear_logs(), int)
    await manager.clear()
    await manager.wait(Query(kind="sum"), timeout=60)
    async for event in manager.watch(Query(kind="sum")):
        assert_type(event, Event)
        assert_type(event.log, LogEntry | None)
    manager.register([add, concat])
    assert_type(manager.unregister("concat"), Job[..., Any, Any])
    assert_type(manager.jobs(), list[Job[..., Any, Any]])
    await node.resize_workers(4)
    assert_type(node.num_workers, int)
    assert_type(node.workers(), list[Worker])
    await node.drain(timeout="1m")
    await node.stop(grace=3)


async def embedding() -> None:
    async with Node(
        "redis://localhost",
        jobs=[add, sum_job],
        workers=10,
        namespace="shop",
        name="web-1",
        lease_ttl=5.0,
        timezone="Europe/Berlin",
    ) as node:
        assert_type(node, Node)
    Node(wrokers=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Node("redis://localhost", [add])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
