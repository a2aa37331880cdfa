"""Jobs that recur, their schedules, the ledger, and the leader."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, assert_type

from peerjob import (
    INJECTED,
    Backfill,
    Context,
    Elections,
    FireEntry,
    FireOutcome,
    Instance,
    Jitter,
    Job,
    Leader,
    Manager,
    Node,
    NodeView,
    Overlap,
    ResultPage,
    Schedule,
    history_cleaner,
    instance_cleaner,
    job,
    log_cleaner,
)


@job(
    kind="report",
    cron="0 6 * * MON-FRI",
    timezone="Europe/Berlin",
    jitter=Jitter.hashed("5m"),
    overlap="queue",
    queue_limit=2,
    misfire="run_all",
    misfire_limit=10,
    start_deadline="6h",
    version=3,
)
async def report(context: Context = INJECTED) -> int:
    assert_type(context.nominal_at, datetime | None)
    assert_type(context.schedule, str | None)
    return 1


@job
def export(day: str, *, copies: int = 1) -> str:
    return day * copies


ping = Job("ping", export, every=timedelta(seconds=5), jitter="1s", name="pings")


async def adding(manager: Manager) -> None:
    hourly = export.with_options(cron="@hourly", name="hourly")
    assert_type(await manager.add_schedule(hourly, "monday", copies=2), Schedule)
    assert_type(await manager.add_schedule(hourly.call("monday")), Schedule)
    assert_type(await manager.add_schedule("report"), Schedule)
    assert_type(await manager.add_schedule(Job("elsewhere", every="5m"), 1, two="2"), Schedule)
    assert_type(await manager.schedule(report), Instance[int])


async def mistakes(manager: Manager) -> None:
    hourly = export.with_options(cron="@hourly")
    await manager.add_schedule(hourly)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await manager.add_schedule(hourly, 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await manager.add_schedule(hourly, date="monday")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await manager.add_schedule(hourly.call("monday"), "tuesday")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await manager.pause_schedule(hourly)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.backfill("report", "2026-01-01", "2026-01-02")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.fires("report", 5)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    made = await manager.trigger_schedule("report")
    await made.result()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    job(cron=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    job(cron="@daily", overlap="sometimes")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    job(cron="@daily", misfire="run_twice")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def acting(manager: Manager, start: datetime, end: datetime) -> None:
    schedule = await manager.lookup_schedule("report")
    assert_type(schedule, Schedule)
    assert_type(await manager.schedules(), list[Schedule])
    assert_type(await manager.pause_schedule("report", note="holidays"), Schedule)
    assert_type(await manager.resume_schedule(schedule), Schedule)
    assert_type(await manager.trigger_schedule(schedule), Instance[Any] | None)
    assert_type(await manager.backfill(schedule, start, end), Backfill)
    assert_type((await schedule.backfill(start, end)).made, int)
    assert_type(await manager.next_fires("report"), list[datetime])
    assert_type(await manager.remove_schedule("report"), bool)
    assert_type(await schedule.pause(), Schedule)
    assert_type(await schedule.resume(), Schedule)
    assert_type(await schedule.refresh(), Schedule)
    assert_type(await schedule.trigger(), Instance[Any] | None)
    assert_type(await schedule.next_fires(3), list[datetime])
    assert_type(await schedule.remove(), bool)


async def reading(manager: Manager, schedule: Schedule, since: datetime) -> None:
    assert_type(schedule.cron, str | None)
    assert_type(schedule.every, timedelta | None)
    assert_type(schedule.next_at, datetime | None)
    assert_type(schedule.overlap, Overlap)
    assert_type(schedule.args, tuple[Any, ...])
    assert_type(schedule.to_dict(), dict[str, Any])
    page = await manager.fires(schedule, after=since, limit=10)
    assert_type(page, ResultPage[FireEntry])
    assert_type(await schedule.fires(cursor=page.cursor), ResultPage[FireEntry])
    for entry in page:
        assert_type(entry.nominal, datetime)
        assert_type(entry.until, datetime | None)
        assert_type(entry.outcome, FireOutcome)
        assert_type(entry.late, timedelta)
        assert_type(entry.instance_id, str | None)
        assert_type(entry.term, int | None)


async def seeing(manager: Manager, instance: Instance[int]) -> None:
    leader = await manager.leader()
    assert_type(leader, Leader | None)
    if leader is not None:
        assert_type(leader.name, str)
        assert_type(leader.term.number, int)
        assert_type(leader.since, datetime | None)
    (view,) = await manager.nodes()
    assert_type(view, NodeView)
    assert_type(view.load, float)
    assert_type(view.heartbeat_age, float)
    assert_type(view.started_at, datetime)
    assert_type(instance.schedule, str | None)
    assert_type(instance.nominal_at, datetime | None)


def embedding(elections: Callable[[], Elections]) -> None:
    jobs = [report, ping, history_cleaner(), log_cleaner("7d"), instance_cleaner(older_than="30d", cron="0 3 * * *")]
    node = Node("redis://localhost", jobs=jobs, coordinator="etcd://h1:2379,h2:2379")
    assert_type(node.is_leader, bool)
    Node(coordinator=elections)
    Node(coordinator=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
