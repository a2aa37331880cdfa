"""A client does what a node does: the same verbs, types, handles and errors, over the network."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from peerjob import (
    PLACEHOLDER,
    ArgumentError,
    Backoff,
    Client,
    Context,
    Filter,
    Instance,
    Jitter,
    Job,
    JobCancelled,
    JobFailed,
    JobTimedOut,
    Level,
    Manager,
    Node,
    NodeStateError,
    OptionError,
    PayloadTooLargeError,
    Query,
    RegisteredJob,
    ScheduleError,
    Server,
    State,
    UnknownInstanceError,
    UnknownKindError,
    UnknownNodeError,
    __version__,
)
from peerjob.model.spec import decode_spec
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.client.remote_manager import long_poll
from peerjob.testing import VirtualClock
from support.rpc import raw_client, served
from support.waiting import until

UNKNOWN_ID = "01900000-0000-7000-8000-000000000000"


@dataclass
class Point:
    x: int
    y: int


def add(x: int, y: int) -> int:
    return x + y


def echo(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


def move(point: Point, by: timedelta, name: str = "?") -> tuple[int, float, str]:
    return point.x, by.total_seconds(), name


def fail(reason: str) -> None:
    raise ValueError(reason)


async def hang() -> None:
    await asyncio.Event().wait()


async def talk(lines: int, context: Context = PLACEHOLDER, instance: Instance[Any] = PLACEHOLDER) -> None:
    for number in range(lines):
        instance.log.info("line %d", number, extra={"number": number})
    instance.log.error("last")
    context.progress(0.5, "half")


ADD, ECHO, MOVE, FAIL, HANG, TALK = (
    Job("add", add),
    Job("echo", echo),
    Job("move", move),
    Job("fail", fail),
    Job("hang", hang),
    Job("talk", talk),
)
JOBS = (ADD, ECHO, MOVE, FAIL, HANG, TALK)


@pytest.fixture
async def site() -> AsyncIterator[tuple[Node, Server]]:
    async with served(*JOBS, workers=8) as both:
        yield both


@pytest.fixture
def node(site: tuple[Node, Server]) -> Node:
    return site[0]


@pytest.fixture
async def client(site: tuple[Node, Server]) -> AsyncIterator[Client]:
    async with Client(site[1].target) as found:
        yield found


# -- scheduling --------------------------------------------------------------------------------------------------------


async def test_a_job_by_definition_by_call_and_by_kind(client: Client, node: Node) -> None:
    instances: list[Instance[Any]] = [
        await client.schedule(ADD, 1, y=2),
        await client.schedule(ADD.call(1, 2)),
        await client.schedule("add", 1, "2"),
    ]

    for instance in instances:
        assert instance.is_new
        assert await instance.result(10) == 3
        assert instance.record == (await node.lookup_instance(instance.id)).record
        assert instance == await client.lookup_instance(instance.id, ADD)


async def test_every_type_of_argument_and_result_survives(client: Client) -> None:
    values = (
        Decimal("1.50"),
        {1, 2},
        frozenset("a"),
        (1, (2,)),
        b"\x00\xff",
        UUID(UNKNOWN_ID),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        date(2026, 1, 2),
        timedelta(days=1, microseconds=1),
        2**70,
        "\ud800",
        None,
        {"a": [1.5, True]},
        complex(1, 2),
    )
    instance = await client.schedule(ECHO, *values, last=Decimal(7))

    assert await instance.result(10) == (values, {"last": Decimal(7)})
    assert (instance.args, instance.kwargs) == (values, {"last": Decimal(7)})
    assert await (await client.schedule("echo", *values)).result(10) == (values, {})


async def test_arguments_are_converted_where_they_run(client: Client) -> None:
    assert await (await client.schedule(MOVE, Point(1, 2), timedelta(minutes=1))).result(10) == (1, 60.0, "?")
    assert await (await client.schedule("move", {"x": 3, "y": 4}, "1h", name="n")).result(10) == (3, 3600.0, "n")


async def test_arguments_of_a_known_job_are_checked_here(site: tuple[Node, Server], client: Client) -> None:
    await site[1].stop(grace=0)  # no other node is asked

    with pytest.raises(ArgumentError) as caught:
        await client.schedule(cast(Any, ADD), "one", 2, 3)
    assert (caught.value.kind, len(caught.value.problems)) == ("add", 2)
    client.register(ADD)
    with pytest.raises(ArgumentError):
        await client.schedule("add", 1)
    with pytest.raises(PayloadTooLargeError):
        await client.schedule(ECHO, b"x" * (1 << 21))
    with pytest.raises(ScheduleError, match="add_schedule"):
        await client.schedule(ECHO.with_options(every=5))
    with pytest.raises(OptionError, match="@job"):
        await client.schedule(cast(Any, add), 1, 2)
    with pytest.raises(ArgumentError):
        await client.schedule_many([ADD.call(1, 2), ADD.call(cast(Any, "x"), 2)])


async def test_arguments_of_a_kind_are_checked_by_the_node(client: Client, node: Node) -> None:
    with pytest.raises(ArgumentError) as caught:
        await client.schedule("add", "one")
    assert (caught.value.kind, len(caught.value.problems)) == ("add", 2)
    with pytest.raises(UnknownKindError) as unknown:
        await client.schedule("nope")
    assert (unknown.value.kind, unknown.value.known) == ("nope", tuple(job.kind for job in node.jobs()))
    assert await client.count() == 0
    later = await client.schedule("nope", 1, allow_unknown=True)
    assert (later.kind, later.state, later.args) == ("nope", State.SCHEDULED, (1,))


OPTIONS: dict[str, Job[..., Any, Any]] = {
    "nothing": ECHO,
    "priority": ECHO.with_options(priority=-3),
    "retries": ECHO.with_options(max_retries=4, backoff=2.5, timeout=7),
    "for ever": ECHO.with_options(max_retries=None, backoff=Backoff.exponential(1, 3, "1h", 0.5), timeout=None),
    "tags and key": ECHO.with_options(tags=["a", "b"], key="one"),
    "a made key": ECHO.with_options(key=lambda arguments: f"of {arguments[0]}"),
    "bounds": ECHO.with_options(retention="1d", max_crashes=9, on_store_loss="continue", run_in="thread"),
    "classes": ECHO.with_options(retry_on=(ValueError, OptionError), no_retry_on=KeyError),
    "definition": Job("echo", echo, priority=2, tags=["x"], retention=60, max_crashes=1, max_retries=3, version=2),
    "at": ECHO.with_options(at=datetime(2100, 1, 1, tzinfo=UTC)),
    "a handle": Job("echo", priority=8, max_retries=2, tags=["h"], timeout="1m"),
}


@pytest.mark.parametrize("name", OPTIONS)
async def test_options_are_stored_as_a_node_stores_them(client: Client, node: Node, name: str) -> None:
    job = OPTIONS[name]
    here = (await node.schedule(job, "x")).record
    await node.clear()
    there = (await client.schedule(job, "x")).record

    mine, yours = decode_spec(here.spec), decode_spec(there.spec)
    shown = ("priority", "tags", "key", "kind")
    assert [getattr(there, one) for one in shown] == [getattr(here, one) for one in shown]
    # what the node decides at once it may also keep beside the rest
    extra = {"retention", "max_crashes"}
    if job.executor is None:
        extra |= {"max_retries", "timeout"}
    assert {one: value for one, value in yours.overrides.items() if one not in extra or one in mine.overrides} == dict(
        mine.overrides
    )
    assert (yours.args, yours.version) == (mine.args, mine.version)
    if job.timing.at_us is not None:
        assert there.due_us == here.due_us


async def test_a_delay_counts_from_now(client: Client) -> None:
    before = datetime.now(UTC)
    instance = await client.schedule(ECHO.with_options(after="1h"))

    assert timedelta(minutes=59) < instance.due_at - before < timedelta(minutes=61)


@pytest.mark.parametrize(
    "option",
    [
        {"on_complete": print},
        {"on_terminate": print},
        {"backoff": lambda instance, error: 1},
        {"retry_on": lambda error: True},
        {"retry_on": [UnicodeError, asyncio.InvalidStateError]},
    ],
)
async def test_functions_do_not_travel(client: Client, option: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        await client.schedule(ECHO.with_options(**option))
    assert await client.count() == 0


async def test_a_key_finds_the_instance_that_has_it(client: Client) -> None:
    job = HANG.with_options(key="once")
    first, second = await client.schedule(job), await client.schedule(job)

    assert (first.is_new, second.is_new) == (True, False)
    assert first == second


async def test_a_bulk_comes_back_in_order(client: Client) -> None:
    instances = await client.schedule_many(ADD.call(number, 1) for number in range(2_500))

    assert [instance.args[0] for instance in instances] == list(range(2_500))
    await client.wait(timeout=30)
    assert await client.count(Query(kind="add", state=State.COMPLETED)) == 2_500
    assert await client.schedule_many([]) == []


async def test_a_bulk_of_large_arguments_comes_back_whole(client: Client) -> None:
    large = [f"{number}" + "x" * 400_000 for number in range(12)]
    instances = await client.schedule_many([ECHO.with_options(after=60).call(one) for one in large])

    assert [instance.args[0] for instance in instances] == large
    cancelled = await client.cancel_instances(Query.all())
    assert [instance.args[0] for instance in cancelled] == large
    again = await client.retry_instances(Query(state=State.CANCELLED))
    assert [instance.args[0] for instance in again] == large


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_pages_are_full_and_join_up(client: Client) -> None:
    made = await client.schedule_many(ECHO.call("x" * 50_000) for _ in range(150))

    page = await client.lookup_instances(Query(limit=120))
    assert len(page) == 120
    assert page.cursor is not None
    assert [one async for one in client.iter_instances(Query(limit=40))] == made
    assert [one async for one in client.iter_instances(Query(limit=40, order="desc"))] == made[::-1]


async def test_history_and_logs(client: Client, node: Node) -> None:
    instance = await client.schedule(TALK, 3)
    await instance.wait(10)

    history, logs = await client.lookup_history(Query(instance=instance)), await client.lookup_logs(Query(kind="talk"))
    assert [one.to_dict() for one in history] == [one.to_dict() for one in await node.lookup_history()]
    assert [one.to_dict() for one in logs] == [one.to_dict() for one in await node.lookup_logs()]
    assert [one.message for one in logs] == ["line 0", "line 1", "line 2", "last"]
    assert logs[1].fields == {"number": 1}
    assert [line.message for line in await instance.logs(level=Level.ERROR)] == ["last"]
    assert [str(one.state) for one in await instance.history()][-1] == "Completed"
    assert instance.progress is not None
    assert (instance.progress.fraction, instance.progress.message) == (0.5, "half")
    shown = {"fraction": 0.5, "message": "half"}
    assert [one.to_dict()["progress"] for one in await client.lookup_instances(Query(kind="talk"))] == [shown]
    assert (await client.lookup_instance(instance.id)).to_dict()["progress"] == shown
    assert [line async for line in client.iter_logs(instance.id)] == [
        line async for line in node.iter_logs(instance.id)
    ]
    assert [line async for line in client.iter_logs(UNKNOWN_ID)] == []


async def test_long_logs_come_in_parts(client: Client) -> None:
    instance = await client.schedule("echo")
    await instance.wait()
    talking = await client.schedule(TALK, 900)
    await talking.wait(20)

    lines = [line.message async for line in client.iter_logs(talking.id)]
    assert lines == [*(f"line {number}" for number in range(900)), "last"]


async def test_views_are_those_of_a_node(client: Client, node: Node) -> None:
    await (await client.schedule(ADD, 1, 2)).wait(10)

    async def led() -> bool:
        return await node.leader() is not None

    await until(led)

    assert await client.count() == 1
    assert await client.stats() == await node.stats()
    [one], [other] = await client.nodes(), await node.nodes()
    assert one.info == other.info
    assert await client.leader() == await node.leader()
    assert await client.workers() == node.workers()
    assert await client.version() == __version__
    jobs = await client.registered_jobs()
    assert [type(one) for one in jobs] == [RegisteredJob] * len(JOBS)
    assert [one.kind for one in jobs] == [job.kind for job in node.jobs()]
    assert jobs == await node.registered_jobs()
    assert [bool(one.json_schema) for one in await client.registered_jobs(schemas=True)] == [
        bool(one.json_schema) for one in await node.registered_jobs(schemas=True)
    ]
    assert [one.kind for one in await client.registered_jobs(ADD.kind)] == [ADD.kind]
    assert await client.registered_jobs("other") == await node.registered_jobs("other") == []


async def test_a_node_is_resized_and_drained(client: Client, node: Node) -> None:
    await client.resize_workers(3)
    assert node.num_workers == 3
    await client.resize_workers(4, node=node.name)
    assert node.num_workers == 4
    with pytest.raises(UnknownNodeError):
        await client.resize_workers(5, node="other")
    for wrong in (0, -1, 2**31, True):
        with pytest.raises(OptionError):
            await client.resize_workers(wrong)
    await client.schedule(HANG)

    async def busy() -> bool:
        return any(worker.kind for worker in await client.workers())

    await until(busy, 10)
    with pytest.raises(TimeoutError):
        await client.drain(0.1)
    await client.cancel_instances(Query.all())
    await client.drain(10)


# -- acting and waiting ------------------------------------------------------------------------------------------------


async def test_cancel_retry_and_clear(client: Client, node: Node) -> None:
    hanging = await client.schedule(HANG)
    assert await hanging.cancel()
    assert not await client.cancel_instance(hanging.id)
    with pytest.raises(JobCancelled) as cancelled:
        await hanging.result(5)
    assert cancelled.value.uuid == hanging.id

    again = await hanging.retry()
    assert str((await again.refresh()).retry_of) == hanging.id
    with pytest.raises(NodeStateError, match="only a final one"):
        await again.retry()
    assert await client.cancel_instances(Query(kind="hang")) == [again]
    assert [one.retry_of for one in await client.retry_instances(Query(instance=again))] == [again.uuid]
    assert len(await client.cancel_instances(Query.all())) == 1
    with pytest.raises(OptionError, match=r"Query.all\(\)"):
        await client.cancel_instances(cast(Any, None))

    old = Filter(before=datetime(2020, 1, 1, tzinfo=UTC))
    assert await client.clear_instances(old) == await client.clear_history(old) == await client.clear_logs(old) == 0
    assert await client.clear_history() == 3
    assert await client.clear_instances(Filter(older_than=3600)) == 0
    assert await client.clear_instances() == 3
    await client.clear()
    assert await node.count() == 0


async def test_what_an_instance_ended_in(client: Client) -> None:
    with pytest.raises(JobFailed) as failed:
        await (await client.schedule(FAIL, "reason")).result(10)
    assert (failed.value.type, failed.value.message) == ("ValueError", "reason")
    assert "raise ValueError(reason)" in failed.value.traceback
    with pytest.raises(JobTimedOut):
        await (await client.schedule(HANG.with_options(timeout=0.05))).result(10)


async def test_waiting_ends_in_time(client: Client) -> None:
    hanging = await client.schedule(HANG)

    with pytest.raises(TimeoutError, match=r"not final after 0\.1 s"):
        await hanging.result(0.1)
    with pytest.raises(TimeoutError, match=r"not final after 0\.1 s"):
        await client.wait(Query(kind="hang"), 0.1)
    await client.wait(Query(kind="add"), 10)
    waiting = asyncio.ensure_future(client.wait())
    await client.cancel_instances(Query.all())
    async with asyncio.timeout(10):
        await waiting


@pytest.mark.parametrize("who", ["client", "node"])
async def test_a_watch_tells_states_logs_and_progress(client: Client, node: Node, who: str) -> None:
    manager: Manager = client if who == "client" else node
    seen, begun = list[tuple[str, str]](), asyncio.Event()

    async def begin() -> None:
        begun.set()

    async def watch() -> None:
        async for event in manager.watch(Query(kind="talk"), on_begin=begin):
            text = str(event.entry.state) if event.entry is not None else event.log.message if event.log else ""
            seen.append((event.what, text))
            if event.entry is not None and event.state is State.COMPLETED:
                assert await event.instance.result() is None
                return

    watching = asyncio.ensure_future(watch())
    await begun.wait()
    await client.schedule(TALK, 1)
    async with asyncio.timeout(20):
        await watching

    assert [text for what, text in seen if what == "state"] == ["Created", "Scheduled", "Processing", "Completed"]
    assert [text for what, text in seen if what == "log"] == ["line 0", "last"]
    assert ("progress", "") in seen


@pytest.mark.parametrize("who", ["client", "node"])
async def test_logs_are_followed_to_the_end(client: Client, node: Node, who: str) -> None:
    manager: Manager = client if who == "client" else node
    asked = asyncio.Event()

    async def wait(instance: Instance[Any] = PLACEHOLDER) -> None:
        instance.log.info("begun")
        await asked.wait()
        instance.log.info("asked")

    node.register(Job("wait", wait))
    made = await client.schedule("wait")
    lines = manager.iter_logs(made.id, follow=True)

    assert (await anext(lines)).message == "begun"
    asked.set()
    assert [line.message async for line in lines] == ["asked"]
    with pytest.raises(UnknownInstanceError):
        await anext(manager.iter_logs(UNKNOWN_ID, follow=True))


# -- schedules ---------------------------------------------------------------------------------------------------------


async def test_schedules(client: Client, node: Node) -> None:
    month = (datetime.now(UTC).month + 5) % 12 + 1  # half a year away, so that it never fires by itself
    job = ADD.with_options(
        cron=f"*/5 12 1 {month} *",
        name="mine",
        timezone="Europe/Berlin",
        jitter=Jitter.hashed(30),
        overlap="queue",
        queue_limit=3,
        misfire="run_all",
        misfire_limit=7,
        start_deadline="1h",
        priority=1,
        tags=["t"],
        max_retries=2,
    )
    made = await client.add_schedule(job, 1, 2)
    here = await node.lookup_schedule("mine")
    assert made.row == here.row
    assert (made.args, made.timezone, made.overlap, made.misfire_limit) == ((1, 2), "Europe/Berlin", "queue", 7)
    again = await node.add_schedule(job, 1, 2)
    assert again.row.revision == made.row.revision, "a node would have written the same"

    await made.pause("why")
    assert (made.paused, made.note) == (True, "why")
    assert not (await made.resume()).paused
    assert [one.name for one in await client.schedules()] == ["mine"]
    assert await made.next_fires(3) == await node.next_fires("mine", 3)
    triggered = await made.trigger()
    assert triggered is not None
    assert await triggered.result(10) == 3
    [fire] = await made.fires()
    assert fire.to_dict() == (await node.fires("mine"))[0].to_dict()
    assert await made.fires(after=datetime(2100, 1, 1, tzinfo=UTC)) == []
    noon = datetime(2020, month, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    done = await made.backfill(noon, noon + timedelta(minutes=15))
    assert (done.times, done.done) == (3, 3)
    assert await made.remove()
    assert not await client.remove_schedule("mine")


async def test_a_schedule_that_a_node_has_added_does_not_change_when_a_client_adds_it(
    client: Client, node: Node
) -> None:
    hourly = HANG.with_options(every="1h")
    added = await node.add_schedule(hourly)
    assert (await client.add_schedule(hourly)).row == added.row


async def test_many_schedules_come_in_several_messages(site: tuple[Node, Server], client: Client, node: Node) -> None:
    names = [f"{number:02}" for number in range(15)]
    for name in names:
        await node.add_schedule(ECHO.with_options(every="1h", name=name), "x" * 400_000)

    assert [one.name for one in await client.schedules()] == names
    async with raw_client(site[1].target) as raw:  # which takes 4 MB at once, as most clients do
        first = (await raw.call("ListSchedules", pb.ListSchedulesRequest())).schedules
    assert 1 < len(first) < len(names)


async def test_an_interval_and_a_kind(client: Client) -> None:
    made = await client.add_schedule(ECHO.with_options(every="1m", name="often"), "x")
    assert (made.every, made.kind, made.args) == (timedelta(minutes=1), "echo", ("x",))
    with pytest.raises(ScheduleError, match="no recurrence"):
        await client.add_schedule("echo")
    with pytest.raises(ScheduleError, match="no recurrence"):
        await client.add_schedule(ECHO)


# -- errors ------------------------------------------------------------------------------------------------------------

Act = Callable[[Manager], Any]
WRONG: dict[str, Act] = {
    "unknown instance": lambda one: one.lookup_instance(UNKNOWN_ID),
    "no id": lambda one: one.lookup_instance("x"),
    "another job": lambda one: one.lookup_instance(UNKNOWN_ID, ADD),
    "wait for an unknown one": lambda one: one.wait_final(UNKNOWN_ID),
    "cancel an unknown one": lambda one: one.cancel_instance(UNKNOWN_ID),
    "retry an unknown one": lambda one: one.retry_instance(UNKNOWN_ID),
    "unknown schedule": lambda one: one.lookup_schedule("x"),
    "pause nothing": lambda one: one.pause_schedule("x"),
    "trigger nothing": lambda one: one.trigger_schedule("x"),
    "fires of nothing": lambda one: one.fires("x"),
    "too many fires": lambda one: one.fires("x", limit=10_001),
    "naive": lambda one: one.fires("x", after=datetime(2026, 1, 1)),  # noqa: DTZ001
    "no fire": lambda one: one.next_fires("x", 0),
    "too few": lambda one: one.schedule("add"),
    "unknown kind": lambda one: one.schedule("nope"),
    "unknown cron": lambda one: one.add_schedule("nope"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_errors_are_those_of_a_node(client: Client, node: Node, case: str) -> None:
    with pytest.raises(Exception) as here:  # noqa: PT011  # which one is the node's affair
        await WRONG[case](node)
    with pytest.raises(Exception) as there:  # noqa: PT011
        await WRONG[case](client)

    assert type(there.value) is type(here.value)
    assert str(there.value) == str(here.value)
    assert vars(there.value) == vars(here.value)


async def test_a_local_registry(client: Client) -> None:
    client.register(JOBS)
    assert client.jobs() == sorted(JOBS, key=lambda job: job.kind)
    assert client.job("add") is ADD
    assert client.unregister("add") is ADD
    with pytest.raises(UnknownKindError):
        client.job("add")


async def test_a_wait_goes_on_at_another_node_where_one_hangs(clock: VirtualClock) -> None:
    said: list[str | None] = ["hangs", None, "hangs", "over"]

    async def wait(seconds: float) -> str | None:
        await asyncio.sleep(seconds)
        one = said.pop(0) if said else None
        if one == "hangs":
            raise TimeoutError
        return one

    assert await clock.run(long_poll(wait, None)) == "over"
    said[:] = ["hangs"] * 3
    began = clock.elapsed()
    assert await clock.run(long_poll(wait, 1.0)) is None
    assert clock.elapsed() - began < 2
