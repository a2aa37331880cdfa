"""From schedule() to the queue: what is refused, what is stored, and in which order it runs."""

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from peerjob import (
    ArgumentError,
    Jitter,
    Job,
    Node,
    NodeStateError,
    OptionError,
    PayloadTooLargeError,
    Query,
    ScheduleError,
    State,
    UnknownInstanceError,
    UnknownKindError,
)
from peerjob.model.clock import to_datetime
from peerjob.model.errors import EncodeError
from peerjob.model.ids import IdSource
from peerjob.node.manager.call_encoder import MAX_UNREGISTERED
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node, scheduled
from support.factories import flaky_store, running_nodes


def add(x: int, y: int) -> int:
    return x + y


ADD = Job("add", add)


# -- ids -----------------------------------------------------------------------------------------------------------


async def test_a_repeated_id_changes_nothing(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock, workers=0) as node:
        id = IdSource(clock).one()
        for given, x in ((id, 1), (id, 2), (id.upper(), 3)):
            assert (await node.schedule_as(given, ADD.call(x, 2))).id == id
        assert await node.count() == 1
        assert (await node.lookup_instance(id)).args == (1, 2)


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("", "a UUID"),
        ("today", "a UUID"),
        (7, "text|a UUID"),
        ("bff6212e-ba3e-41ac-904e-2baf1abfdf45", "a UUIDv7 of about now"),
        ("0192a0b0-0000-7000-8000-000000000001", "a UUIDv7 of about now"),
        ("ffffffff-ffff-7fff-bfff-ffffffffffff", "a UUIDv7 of about now"),
    ],
)
async def test_an_id_that_lookups_cannot_use_is_refused(clock: VirtualClock, id: Any, expected: str) -> None:
    async with running_node(ADD, clock=clock, workers=0) as node:
        with pytest.raises(OptionError, match=expected):
            await node.schedule_as(id, ADD.call(1, 2))
        with pytest.raises(OptionError, match=expected):
            await node.schedule_many([ADD.call(1, 2)], ids=[id])
        assert [one async for one in node.iter_instances()] == []


# -- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "seconds"), [(2, 2), (0.5, 0.5), ("1m30s", 90), (timedelta(minutes=5), 300), ("PT2M", 120), (0, 0)]
)
async def test_after_waits_so_long_and_no_longer(clock: VirtualClock, after: Any, seconds: float) -> None:
    started: list[float] = []

    async def note() -> None:
        started.append(clock.elapsed())

    job = Job("note", note)
    async with running_node(job, clock=clock) as node:
        at = clock.elapsed()
        instance = await node.schedule(job.with_options(after=after))
        assert instance.due_at == instance.created_at + timedelta(seconds=seconds)
        await drain(node, limit="2h")

        assert 0 <= started[0] - at - seconds <= 0.01 * max(1, min(seconds, 1))


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-8)), ZoneInfo("Europe/Berlin")])
async def test_at_waits_for_its_time_in_every_zone(clock: VirtualClock, zone: Any) -> None:
    due = to_datetime(clock.time_us()).astimezone(zone) + timedelta(minutes=10)
    async with running_node(ADD, clock=clock) as node:
        instance = await node.schedule(ADD.with_options(at=due), 1, 2)
        await clock.advance(599.9)
        assert (await instance.refresh()).state is State.SCHEDULED
        await clock.advance(0.2)

        assert (await instance.refresh()).state is State.COMPLETED
        assert instance.processed_at is not None
        assert instance.processed_at >= due


async def test_a_naive_time_is_refused_unless_a_zone_is_given(clock: VirtualClock) -> None:
    naive = datetime(2026, 1, 1, 1, 0, 0)  # noqa: DTZ001  # that is the point
    async with running_node(ADD, clock=clock) as node:
        with pytest.raises(ScheduleError, match="no time zone"):
            await node.schedule(ADD.with_options(at=naive), 1, 2)
        instance = await node.schedule(ADD.with_options(at=naive, timezone="Europe/Berlin"), 1, 2)

        assert instance.due_at == datetime(2026, 1, 1, 0, 0, 0, tzinfo=UTC)


async def test_a_past_time_is_due_at_once_and_keeps_its_place_in_the_order(clock: VirtualClock) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)

    job, now = Job("note", note), to_datetime(clock.time_us())
    async with running_node(clock=clock, workers=1) as node:
        await node.schedule(job, "now")
        await node.schedule(job.with_options(at=now - timedelta(hours=1)), "an hour ago")
        await node.schedule(job.with_options(at=now - timedelta(hours=2)), "two hours ago")
        node.register(job)
        before = clock.elapsed()
        await clock.settle()

        assert ran == ["two hours ago", "an hour ago", "now"]
        assert clock.elapsed() == before


@pytest.mark.parametrize(
    "options",
    [
        {"after": -1},
        {"after": "-5s"},
        {"after": "soon"},
        {"after": float("nan")},
        {"after": timedelta.max},
        {"at": "tomorrow"},
        {"at": 12},
        {"at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))},
        {"at": "2026-01-01T00:00:00Z", "after": 1},
        {"at": "2026-01-01T00:00:00", "timezone": "Mars/Olympus"},
    ],
    ids=str,
)
async def test_a_time_that_cannot_be_is_refused(options: Any) -> None:
    with pytest.raises(ScheduleError):
        ADD.with_options(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": -1},
        {"timeout": 0},
        {"timeout": "never"},
        {"backoff": -1},
        {"backoff": timedelta.max},
        {"priority": 2**31},
        {"priority": "high"},
        {"priority": True},
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"retry_on": int},
        {"run_in": "cloud"},
        {"tags": "one"},
        {"tags": [""]},
        {"key": ""},
        {"retention": -1},
        {"retention": timedelta.max},
        {"on_complete": "print"},
        {"nonsense": 1},
    ],
    ids=str,
)
async def test_an_option_that_cannot_be_is_refused_with_its_value(options: Any) -> None:
    (name, value), *_ = options.items()
    makers: list[Callable[[], Any]] = [lambda: ADD.with_options(**options), lambda: Job("other", add, **options)]
    for make in makers:
        with pytest.raises(OptionError) as caught:
            make()
        assert name in str(caught.value)
        assert repr(value) in str(caught.value) or caught.value.given in value


# -- settings of a node ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"workers": -1}, OptionError),
        ({"workers": 1.5}, OptionError),
        ({"workers": True}, OptionError),
        ({"lease_ttl": 0.5}, OptionError),
        ({"lease_ttl": -5}, OptionError),
        ({"lease_ttl": "soon"}, OptionError),
        ({"store_retry": -1}, OptionError),
        ({"store_retry": "soon"}, OptionError),
        ({"max_payload": 0}, OptionError),
        ({"namespace": ""}, OptionError),
        ({"namespace": "a}b"}, OptionError),
        ({"namespace": "x" * 65}, OptionError),
        ({"store": "mongodb://localhost"}, OptionError),
        ({"store": "memory://?size=1"}, OptionError),
        ({"jobs": 5}, OptionError),
        ({"jobs": "no.such.module"}, OptionError),
        ({"timezone": "Mars/Olympus"}, ScheduleError),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Node(**settings)


async def test_resizing_to_less_than_one_worker_is_refused(clock: VirtualClock) -> None:
    async with running_node(clock=clock) as node:
        for count in (0, -1, 2.5, True, "3"):
            with pytest.raises(OptionError, match="resize_workers"):
                await node.resize_workers(count)  # type: ignore[arg-type]
        assert node.num_workers == 10


async def test_a_node_that_is_not_running_refuses_every_verb() -> None:
    node = Node(jobs=[ADD])
    with pytest.raises(NodeStateError, match="not running"):
        await node.schedule(ADD, 1, 2)
    with pytest.raises(NodeStateError):
        await node.count()


# -- arguments and kinds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "problems"),
    [
        ((1,), {}, ["y"]),
        ((1, 2, 3), {}, ["3"]),
        (("one", "two"), {}, ["x", "y"]),
        ((1, 2), {"z": 3}, ["z"]),
        ((1,), {"x": 2, "y": 3}, ["x"]),
    ],
)
async def test_arguments_that_do_not_fit_are_all_named_and_nothing_is_stored(
    clock: VirtualClock, args: tuple[Any, ...], kwargs: dict[str, Any], problems: list[str]
) -> None:
    async with running_node(ADD, clock=clock) as node:
        targets: list[Any] = [ADD, "add"]
        for target in targets:
            with pytest.raises(ArgumentError) as caught:
                await node.schedule(target, *args, **kwargs)
            for problem in problems:
                assert any(problem in one for one in caught.value.problems)
        assert await node.count() == 0


async def test_text_is_converted_and_values_are_checked_before_anything_is_stored(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        assert await clock.run((await node.schedule("add", "20", y="22")).result()) == 42


async def test_an_argument_of_a_type_that_cannot_be_stored_is_refused(clock: VirtualClock) -> None:
    job = Job("any", lambda value: value)
    async with running_node(job, clock=clock) as node:
        for value in (object(), {"deep": [1, {"er": asyncio.Lock()}]}):
            with pytest.raises((ArgumentError, EncodeError)):
                await node.schedule(job, value)
        assert await node.count() == 0


async def test_a_payload_over_the_limit_is_refused_before_anything_is_stored(clock: VirtualClock) -> None:
    job = Job("size", len)
    async with running_node(job, clock=clock, max_payload=10_000) as node:
        with pytest.raises(PayloadTooLargeError, match="10,000") as caught:
            await node.schedule(job, "x" * 10_000)
        assert caught.value.size > 10_000
        with pytest.raises(PayloadTooLargeError):
            await node.schedule_many([job.call("small"), job.call("x" * 20_000)])
        assert await node.count() == 0
        assert await clock.run((await node.schedule(job, "x" * 9_000)).result()) == 9_000


@pytest.mark.parametrize("over", [0, 1])
async def test_arguments_of_exactly_the_limit_are_stored(clock: VirtualClock, over: int) -> None:
    job = Job("size", len)
    async with running_node(job, clock=clock) as node:
        size = len((await node.schedule(job, "x" * 20_000)).record.spec)
    async with running_node(job, clock=clock, max_payload=size - over) as node:
        if over:
            with pytest.raises(PayloadTooLargeError):
                await node.schedule(job, "x" * 20_000)
        else:
            assert await clock.run((await node.schedule(job, "x" * 20_000)).result()) == 20_000


async def test_the_limit_is_a_mebibyte_by_default(clock: VirtualClock) -> None:
    job = Job("size", len)
    async with running_node(job, clock=clock) as node:
        with pytest.raises(PayloadTooLargeError):
            await node.schedule(job, "x" * (1 << 20))
        assert await clock.run((await node.schedule(job, "x" * 1_000_000)).result()) == 1_000_000


async def test_an_unknown_kind_is_refused_unless_that_is_allowed(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        with pytest.raises(UnknownKindError, match="nope") as caught:
            await node.schedule("nope", 1)
        assert caught.value.known == ("add",)
        assert await node.count() == 0
        instance = await node.schedule("nope", 1, allow_unknown=True)
        assert (instance.kind, instance.args) == ("nope", (1,))


async def test_allow_unknown_is_not_an_argument_of_a_job_that_is_known(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        instance = await node.schedule("add", 1, 2, allow_unknown=True)
        assert await clock.run(instance.result()) == 3


async def test_a_node_may_allow_every_unknown_kind(clock: VirtualClock) -> None:
    async with running_node(clock=clock, allow_unknown=True) as node:
        assert (await node.schedule("nope", 1)).kind == "nope"


async def test_a_handle_schedules_what_runs_elsewhere(clock: VirtualClock) -> None:
    async with running_nodes(clock, "web", "worker", workers=2) as (web, worker):
        worker.register(ADD)
        instance = await web.schedule(Job("add"), 40, 2)
        assert await clock.run(instance.result()) == 42
        assert (await instance.refresh()).node == "worker"


@pytest.mark.parametrize("target", [add, 12, None, ["add"]])
async def test_what_is_no_job_is_refused(clock: VirtualClock, target: Any) -> None:
    async with running_node(ADD, clock=clock) as node:
        with pytest.raises(OptionError, match="a Job"):
            await node.schedule(target, 1, 2)


async def test_an_alias_serves_the_old_kind(clock: VirtualClock) -> None:
    job = Job("sum", add, aliases=["add", "plus"])
    async with running_node(job, clock=clock) as node:
        instances = [await node.schedule("plus", 1, 2), await node.schedule(Job("add"), 3, 4)]
        assert [await clock.run(one.result()) for one in instances] == [3, 7]


async def test_an_unregistered_kind_waits_until_it_is_registered_again(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        assert node.unregister("add") is ADD
        with pytest.raises(UnknownKindError):
            node.unregister("add")
        instance = await node.schedule(ADD, 1, 2)
        await clock.advance(5)
        assert (await instance.refresh()).state is State.SCHEDULED
        node.register(ADD)
        assert await clock.run(instance.result()) == 3


async def test_registering_a_kind_again_replaces_it_and_another_signature_warns(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(ADD, clock=clock) as node:
        node.register(Job("add", lambda x, y: (x, y)))
        assert "another signature" in caplog.text
        assert await clock.run((await node.schedule("add", 1, 2)).result()) == (1, 2)


# -- jitter ----------------------------------------------------------------------------------------------------------


async def test_jitter_makes_one_run_due_later(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        begun = clock.time_us()

        async def late_us(**options: Any) -> int:
            instance = await node.schedule(ADD.with_options(**options), 1, 2)
            return round((instance.due_at - to_datetime(begun)).total_seconds() * 1e6) - 60_000_000

        for time in ({"after": "1m"}, {"at": to_datetime(begun + 60_000_000)}):
            drawn = [await late_us(**time, jitter="10s") for _ in range(20)]
            assert len(set(drawn)) > 15
            assert all(0 <= one <= 10_000_000 for one in drawn)
            assert {await late_us(**time, jitter=lambda: "7s") for _ in range(3)} == {7_000_000}
            (hashed,) = {await late_us(**time, jitter=Jitter.hashed("10s")) for _ in range(3)}
            assert 0 <= hashed <= 10_000_000
        now = await node.schedule(ADD.with_options(jitter="1h"), 1, 2)
        assert await clock.run(now.result()) == 3


async def test_a_schedule_refuses_a_jitter_function(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        with pytest.raises(ScheduleError, match="jitter= is a function"):
            await node.add_schedule(ADD.with_options(every="1m", jitter=lambda: 5), 1, 2)
        with pytest.raises(OptionError, match="jitter"):
            await node.schedule(ADD.with_options(after=5, jitter=lambda: -1), 1, 2)


# -- keys ------------------------------------------------------------------------------------------------------------


async def test_while_an_instance_with_a_key_is_not_final_scheduling_again_returns_that_one(clock: VirtualClock) -> None:
    async def slow(x: int) -> int:
        await asyncio.sleep(10)
        return x

    job = Job("slow", slow, key="only")
    async with running_node(job, clock=clock) as node:
        first = await node.schedule(job, 1)
        again = await node.schedule(job, 2)
        await clock.advance(1)
        while_running = await node.schedule(job, 3)

        assert (first.is_new, again.is_new, while_running.is_new) == (True, False, False)
        assert {first.id} == {again.id, while_running.id}
        assert while_running.state is State.PROCESSING
        assert while_running.args == (1,)
        assert await clock.run(again.result()) == 1
        afterwards = await node.schedule(job, 4)
        assert afterwards.is_new
        assert afterwards.id != first.id


async def test_a_key_is_unique_per_kind(clock: VirtualClock) -> None:
    one, other = (Job(kind, add, key="same") for kind in ("one", "other"))
    async with running_node(clock=clock) as node:
        assert (await node.schedule(one, 1, 2)).is_new
        assert (await node.schedule(other, 1, 2)).is_new


@pytest.mark.parametrize(
    "key",
    [
        lambda arguments: f"{arguments['x']}",
        lambda arguments: f"{arguments.x}",
        lambda arguments: f"{arguments[0]}",
    ],
    ids=["by name", "as attribute", "by position"],
)
async def test_a_key_function_sees_the_arguments(clock: VirtualClock, key: Callable[[Any], str]) -> None:
    job = Job("add", add, key=key)
    async with running_node(clock=clock) as node:
        first, same, other = [await node.schedule(job, x, y) for x, y in ((1, 2), (1, 3), (2, 2))]

        assert (first.key, other.key) == ("1", "2")
        assert same.id == first.id
        assert other.id != first.id


async def test_a_key_function_that_gives_no_text_is_refused(clock: VirtualClock) -> None:
    async with running_node(clock=clock) as node:
        keys: list[Any] = [lambda _: 5, lambda _: "", lambda _: None]
        for key in keys:
            with pytest.raises(OptionError, match="key"):
                await node.schedule(ADD.with_options(key=key), 1, 2)


async def test_a_cancelled_instance_frees_its_key(clock: VirtualClock) -> None:
    job = Job("add", add, key="only", after=60)
    async with running_node(job, clock=clock) as node:
        first = await node.schedule(job, 1, 2)
        assert await first.cancel()
        assert (await node.schedule(job, 1, 2)).is_new


async def test_a_waiting_retry_keeps_its_key(clock: VirtualClock) -> None:
    def fail() -> None:
        raise ValueError

    job = Job("fail", fail, key="only", max_retries=1, backoff=60)
    async with running_node(job, clock=clock) as node:
        first = await node.schedule(job)
        await clock.advance(1)
        assert (await node.schedule(job)).id == first.id
        await drain(node)
        assert (await node.schedule(job)).id != first.id


# -- many ------------------------------------------------------------------------------------------------------------


async def test_many_are_stored_in_batches_and_answered_in_order(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(ADD, clock=clock, store=flaky.store) as node:
        instances = await node.schedule_many(ADD.call(x, x) for x in range(1200))
        await drain(node)

        assert flaky.calls["enqueue"] == 3
        assert [await one.result() for one in instances] == [2 * x for x in range(1200)]

        instances = await node.schedule_many(ADD.call(x, 1) for x in range(1200))
        await drain(node)

        assert flaky.calls["enqueue"] == 3 + 4  # of a known definition, the first batch is small
        assert [await one.result() for one in instances] == [x + 1 for x in range(1200)]


async def test_of_many_with_one_key_the_first_wins(clock: VirtualClock) -> None:
    job = Job("add", add, key=lambda arguments: str(arguments.x % 3))
    async with running_node(clock=clock) as node:
        instances = await node.schedule_many(job.call(x, 0) for x in range(6))

        assert [one.is_new for one in instances] == [True] * 3 + [False] * 3
        assert [one.id for one in instances[3:]] == [one.id for one in instances[:3]]


async def test_one_bad_call_among_many_stores_none(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        with pytest.raises(ArgumentError):
            await node.schedule_many([ADD.call(1, 2), ADD.call(1, "two")])  # type: ignore[arg-type]
        assert await node.count() == 0


@pytest.mark.parametrize("bad", ["x" * 1_000, 7])
async def test_one_bad_call_among_many_of_a_known_definition_stores_none(clock: VirtualClock, bad: Any) -> None:
    def size(text: str) -> int:
        return len(text)

    job = Job("size", size)
    async with running_node(job, clock=clock, workers=0, max_payload=1_000) as node:
        await node.schedule_many([job.call("known")])
        with pytest.raises((ArgumentError, PayloadTooLargeError)):
            await node.schedule_many([*[job.call("small")] * 200, job.call(bad), *[job.call("small")] * 500])
        assert await node.count() == 1


async def test_concurrent_schedules_share_calls(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(clock=clock, store=flaky.store) as node:
        first = flaky.stall("enqueue", times=1)
        scheduling = asyncio.gather(*(node.schedule(ADD, x, x) for x in range(300)))
        await first.met.wait()
        await clock.settle()
        first.release()
        instances = await scheduling

        assert [one.args for one in instances] == [(x, x) for x in range(300)]
        assert await node.count(Query(kind="add")) == 300
        assert flaky.calls["enqueue"] == 3  # one alone, then two halves


# -- priorities and options --------------------------------------------------------------------------------------


async def test_the_lowest_priority_number_runs_first_then_the_earliest_due(clock: VirtualClock) -> None:
    ran: list[int] = []

    async def note(priority: int) -> None:
        ran.append(priority)

    job, priorities = Job("note", note), [7, 5, -(2**31), 2**31 - 1, 0, -1, 10, 5]
    async with running_node(clock=clock, workers=1) as node:
        for priority in priorities:
            await node.schedule(job.with_options(priority=priority), priority)
        node.register(job)
        await drain(node)

        assert ran == sorted(priorities)


async def test_a_schedule_s_options_win_over_the_definition_s_and_travel_with_it(clock: VirtualClock) -> None:
    def fail() -> None:
        raise ValueError

    job = Job("fail", fail, max_retries=5, tags=["definition"], backoff=3600)
    async with running_nodes(clock, "web", "worker", jobs=job) as (web, _):
        variant = job.with_options(max_retries=1, tags=["mine", "other"], backoff=1, priority=3)
        instance = await web.schedule(variant)
        await drain(web, limit=10)

        assert (await instance.refresh()).attempts == 2
        assert (instance.tags, instance.priority) == (("mine", "other"), 3)
        assert [one.id for one in await web.lookup_instances(Query(tag="mine"))] == [instance.id]
        assert await web.count(Query(tag="definition")) == 0


async def test_retention_is_given_by_the_definition_or_the_schedule(clock: VirtualClock) -> None:
    job = Job("add", add, retention="1m")
    async with running_node(job, clock=clock) as node:
        short, long = await node.schedule(job, 1, 2), await node.schedule(job.with_options(retention="3h"), 1, 2)
        await drain(node)
        await clock.advance("3m")

        with pytest.raises(UnknownInstanceError):
            await short.refresh()
        assert (await long.refresh()).state is State.COMPLETED


async def test_the_handle_of_a_new_instance_shows_what_was_scheduled(clock: VirtualClock) -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    async with running_node(clock=clock, workers=0) as node:
        instance = await node.schedule(Job("draw", lambda point, *, scale=1: None), {"x": 1}, scale=2)

        assert (instance.kind, instance.state, instance.attempts, instance.node) == ("draw", State.SCHEDULED, 0, None)
        assert (instance.args, instance.kwargs) == (({"x": 1},), {"scale": 2})
        assert instance.created_at == to_datetime(clock.time_us())
        assert [one.id for one in await scheduled(node, "draw")] == [instance.id]
        stored = await node.lookup_instance(instance.uuid)
        assert (stored.to_dict(), stored) == (instance.to_dict(), instance)


@pytest.mark.parametrize("option", ["key", "tags", "kind"])
async def test_text_that_cannot_be_stored_is_refused_where_it_is_given(clock: VirtualClock, option: str) -> None:
    half = "half a character: \ud800"
    options: Any = {"tags": {"tags": [half]}, "key": {"key": half}, "kind": {}}[option]
    with pytest.raises(OptionError, match=option):
        Job(half if option == "kind" else "add", add, **options)
    async with running_node(clock=clock) as node:
        with pytest.raises(OptionError, match="key"):
            await node.schedule(ADD.with_options(key=lambda _: half), 1, 2)


async def test_arguments_may_hold_half_characters(clock: VirtualClock) -> None:
    job = Job("echo", lambda text: text)
    async with running_node(job, clock=clock) as node:
        assert await clock.run((await node.schedule(job, "half \ud800")).result()) == "half \ud800"


async def test_variants_of_a_job_that_is_not_registered_share_one_binding(clock: VirtualClock) -> None:
    async with running_node(clock=clock, workers=0) as node:
        for delay in range(50):
            await node.schedule(ADD.with_options(after=delay), 1, 2)
        bindings = node._call_encoder._unregistered  # pyright: ignore[reportPrivateUsage]
        assert len(bindings) == 1
        for number in range(MAX_UNREGISTERED + 10):
            await node.schedule(Job(f"kind {number}", lambda: None))
        assert len(bindings) == MAX_UNREGISTERED


async def test_a_handle_has_the_key_of_the_definition_that_is_known_here(clock: VirtualClock) -> None:
    keyed = Job("keyed", lambda number: number, key=lambda arguments: f"number-{arguments['number']}")
    async with running_node(keyed, clock=clock, workers=0) as node:
        first = await node.schedule(keyed, 1)
        same, other = await node.schedule(Job("keyed"), 1), await node.schedule(Job("keyed"), 2)
        assert (same.id, same.is_new, other.is_new) == (first.id, False, True)


async def test_a_call_of_a_kind_without_a_function_here_has_a_limit_of_arguments_too(clock: VirtualClock) -> None:
    async with running_node(clock=clock, workers=0) as node:
        await node.schedule("elsewhere", *range(1_000), allow_unknown=True)
        for target in ("elsewhere", Job("elsewhere")):
            with pytest.raises(ArgumentError, match="1,001 arguments, over the limit of 1,000"):
                await node.schedule(target, *range(1_001), **({"allow_unknown": True} if target == "elsewhere" else {}))


async def test_a_bulk_call_makes_few_ids_at_a_time(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ids of a large call would block the event loop."""
    job, counts = Job("sum", add), list[int]()
    async with running_node(clock=clock, workers=0) as node:
        ids = node._call_encoder.ids  # pyright: ignore[reportPrivateUsage]
        take = ids.take

        def counted(count: int = 1) -> list[str]:
            counts.append(count)
            return take(count)

        monkeypatch.setattr(ids, "take", counted)
        instances = await node.schedule_many(job.call(n, n) for n in range(350))
    assert max(counts) <= 100
    made = [instance.id for instance in instances]
    assert made == sorted(set(made))


async def test_each_call_of_a_definition_with_a_delay_is_due_later(clock: VirtualClock) -> None:
    job = Job("sum", add, after="1h")
    async with running_node(clock=clock, workers=0) as node:
        instances = [await node.schedule(job, 1, n) for n in range(2)] + await node.schedule_many([job.call(1, 2)] * 2)
        assert {instance.due_at - instance.created_at for instance in instances} == {timedelta(hours=1)}


async def test_a_call_is_checked_by_what_is_registered_now(clock: VirtualClock) -> None:
    handle = Job[..., Any, Any]("sum")
    async with running_node(clock=clock, workers=0) as node:
        assert (await node.schedule(handle, "any text")).args == ("any text",)
        node.register(Job("sum", add, tags=["checked"]))
        with pytest.raises(ArgumentError):
            await node.schedule(handle, "any text")
        assert (await node.schedule(handle, 1, 2)).tags == ("checked",)
        node.unregister("sum")
        assert (await node.schedule(handle, "any text")).tags == ()
