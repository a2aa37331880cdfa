"""Jobs that are defined with a recurrence: the one schedule that each makes, and what code may write over."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    ArgumentError,
    Context,
    FireOutcome,
    Instance,
    Job,
    Node,
    Query,
    Schedule,
    ScheduleError,
    SystemClock,
    job,
)
from peerjob.model.clock import to_datetime
from peerjob.model.firing import SchedulePut
from peerjob.model.spec import decode_spec
from peerjob.store.drivers import wipe_namespace
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import advance, running_node
from support.factories import flaky_store, memory_store, running_nodes, shared_url
from support.records import logged

EVERY_MINUTE = "* * * * *"


def nothing() -> None:
    pass


def needing(day: str, times: int = 1) -> None:
    pass


def with_defaults(day: str = "monday", context: Context = INJECTED) -> None:
    pass


def tick(cron: str = EVERY_MINUTE, **options: Any) -> Job:
    return Job("tick", nothing, cron=cron, **options)


async def the_schedule(node: Node) -> Schedule:
    (schedule,) = await node.schedules()
    return schedule


# -- making it


async def test_a_job_with_a_recurrence_runs_at_each_nominal_time(clock: VirtualClock) -> None:
    seen: list[tuple[str | None, datetime | None]] = []

    async def remember(instance: Instance[Any] = INJECTED, context: Context = INJECTED) -> None:
        assert (context.schedule, context.nominal_at) == (instance.schedule, instance.nominal_at)
        seen.append((instance.schedule, instance.nominal_at))

    async with running_node(Job("daily", remember, cron="5 0 * * *"), clock=clock) as node:
        await advance(node, "10m")

        assert seen == [("daily", datetime(2026, 1, 1, 0, 5, tzinfo=UTC))]
        (instance,) = await node.lookup_instances()
        assert instance.to_dict()["schedule"] == "daily"
        assert instance.to_dict()["nominal_at"] == "2026-01-01T00:05:00+00:00"
        assert instance.created_at == datetime(2026, 1, 1, 0, 5, tzinfo=UTC)


async def test_its_name_is_the_option_or_the_kind(clock: VirtualClock) -> None:
    named = Job("named", nothing, every="1h", name="hourly")
    async with running_node(tick(), named, clock=clock) as node:
        assert [(one.name, one.kind) for one in await node.schedules()] == [("hourly", "named"), ("tick", "tick")]


async def test_the_options_of_the_definition_are_in_the_schedule_and_its_instances(clock: VirtualClock) -> None:
    given = Job(
        "given",
        nothing,
        cron="TZ=Europe/Berlin 10 1 * * MON-FRI",
        jitter="10s",
        overlap="queue",
        queue_limit=3,
        misfire="run_all",
        misfire_limit=7,
        start_deadline="1h",
        priority=-2,
        tags=["office"],
        version=4,
        description="opens the office",
    )
    async with running_node(given, clock=clock) as node:
        shown = (await the_schedule(node)).to_dict()
        assert {name: shown[name] for name in shown if name not in ("created_at", "updated_at")} == {
            "name": "given",
            "kind": "given",
            "paused": False,
            "note": "",
            "next_at": "2026-01-01T00:10:00+00:00",
            "last_at": None,
            "running": None,
            "waiting": [],
            "description": "opens the office",
            "crontab": "10 1 * * MON-FRI",
            "every": None,
            "timezone": "Europe/Berlin",
            "jitter": 10.0,
            "overlap": "queue",
            "queue_limit": 3,
            "misfire": "run_all",
            "misfire_limit": 7,
            "start_deadline": 3600.0,
            "arguments": [],
            "priority": -2,
            "tags": ["office"],
            "version": 4,
        }
        await advance(node, "11m")
        (instance,) = await node.lookup_instances()
        assert (instance.priority, instance.tags) == (-2, ("office",))
        assert timedelta() <= instance.due_at - datetime(2026, 1, 1, 0, 10, tzinfo=UTC) <= timedelta(seconds=10)


async def test_the_time_zone_is_that_of_the_node_where_the_job_names_none(clock: VirtualClock) -> None:
    own = Job("own", nothing, cron="0 12 * * *", timezone="Asia/Tokyo")
    async with running_node(tick("0 12 * * *"), own, clock=clock, timezone="America/New_York") as node:
        zones = {one.name: (one.timezone, one.next_at) for one in await node.schedules()}

        assert zones == {
            "own": ("Asia/Tokyo", datetime(2026, 1, 1, 3, tzinfo=UTC)),
            "tick": ("America/New_York", datetime(2026, 1, 1, 17, tzinfo=UTC)),
        }


async def test_a_job_that_is_registered_while_the_node_runs_gets_its_schedule(clock: VirtualClock) -> None:
    async with running_node(clock=clock) as node:
        node.register(tick())

        assert (await the_schedule(node)).next_at == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
        node.unregister("tick")
        await clock.settle()
        assert (await the_schedule(node)).name == "tick"


async def test_a_node_without_workers_writes_it_too(clock: VirtualClock) -> None:
    async with running_node(tick(), clock=clock, workers=0) as node:
        assert (await the_schedule(node)).name == "tick"


async def test_a_handle_makes_none(clock: VirtualClock) -> None:
    async with running_node(Job("elsewhere", every=5), clock=clock) as node:
        assert await node.schedules() == []


async def test_what_needs_arguments_is_refused_with_their_names_and_nothing_is_registered(clock: VirtualClock) -> None:
    async with running_node(clock=clock) as node:
        with pytest.raises(ArgumentError, match="day"):
            node.register([tick(), Job("needing", needing, every=5)])
        assert node.jobs() == []
        node.register(Job("needing", with_defaults, every=5))


async def test_two_jobs_cannot_define_one_schedule(clock: VirtualClock) -> None:
    async with running_node(tick(), clock=clock) as node:
        with pytest.raises(ScheduleError, match="'tick' and 'tock' both define the schedule 'tick'"):
            node.register(Job("tock", nothing, every=5, name="tick"))
        node.register(tick("0 * * * *"))


async def test_a_schedule_of_the_definition_is_fired_also_where_only_peers_have_the_kind(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_node(clock=clock, store=url, name="leader") as leader:
        await clock.advance(1)
        async with running_node(tick(), clock=clock, store=url, name="worker") as worker:
            await clock.advance("3m")

            assert (leader.is_leader, worker.is_leader) == (True, False)
            instances = await worker.lookup_instances()
            assert [(one.node, str(one.state)) for one in instances] == [("worker", "Completed")] * 3


# -- schedule(), which means one run


async def test_scheduling_such_a_job_is_an_extra_run_now(clock: VirtualClock) -> None:
    one = tick()
    async with running_node(one, clock=clock) as node:
        for target in (one, "tick", one.with_options(priority=1)):
            instance = await node.schedule(target)
            await instance.result()
            assert (instance.schedule, instance.nominal_at) == (None, None)
        assert await node.count() == 3


async def test_a_variant_with_a_recurrence_is_refused_with_a_pointer(clock: VirtualClock) -> None:
    plain = Job("plain", nothing)
    async with running_node(plain, tick(), clock=clock) as node:
        for variant in (plain.with_options(every=5), tick().with_options(cron="@daily")):
            with pytest.raises(ScheduleError, match="add_schedule"):
                await node.schedule(variant)
            with pytest.raises(ScheduleError, match="add_schedule"):
                await node.schedule_many([variant.call()])
        assert await node.count() == 0


async def test_a_variant_that_is_registered_is_a_definition(clock: VirtualClock) -> None:
    variant = Job("plain", nothing).with_options(every=5)
    async with running_node(variant, clock=clock) as node:
        assert (await the_schedule(node)).every == timedelta(seconds=5)
        await (await node.schedule("plain")).result()
        await clock.advance(6)
        assert await node.count() == 2


async def test_options_of_a_registered_variant_need_not_travel(clock: VirtualClock) -> None:
    done: list[object] = []
    variant = tick().with_options(on_complete=lambda instance, result: done.append(result), every=5, max_retries=2)
    async with running_node(variant, clock=clock) as node:
        await clock.advance(6)
        assert done == [None]
        assert decode_spec((await the_schedule(node)).definition.spec).overrides == {}
        revision = (await the_schedule(node)).row.revision
        assert (await node.add_schedule("tick")).row.revision == revision


# -- many nodes, many starts


async def test_nodes_that_start_at_once_make_one(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_nodes(clock, *(f"node-{n}" for n in range(5)), jobs=[tick()], store=url) as nodes:
        await clock.advance("10m")

        assert len(await nodes[0].schedules()) == 1
        instances = await nodes[0].lookup_instances()
        assert len({one.nominal_at for one in instances}) == len(instances) == 10


async def test_nodes_that_collide_while_they_write_settle_on_one(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    url = shared_url()
    stores = [flaky_store(clock, url) for _ in range(4)]
    reading = [store.stall_answers("get_schedules", times=1) for store in stores]
    nodes = [running_node(tick(), clock=clock, store=store.store, name=str(n)) for n, store in enumerate(stores)]
    starting = [asyncio.ensure_future(node.__aenter__()) for node in nodes]
    await clock.settle()
    for fault in reading:
        assert fault.met.is_set()
        fault.release()
    started = [await clock.run(one) for one in starting]
    try:
        assert [(await the_schedule(node)).row.revision for node in started] == [1] * 4
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING and one.name == "peerjob.node"]
    finally:
        for node in nodes:
            await node.__aexit__(None, None, None)


async def test_a_restart_changes_nothing(clock: VirtualClock) -> None:
    url = shared_url()
    job = Job("tick", nothing, every="10m")
    async with running_node(job, clock=clock, store=url) as node:
        first = await the_schedule(node)
        await clock.advance("4m")
    async with running_node(job, clock=clock, store=url) as node:
        again = await the_schedule(node)

        assert again.row == first.row


async def test_a_pause_survives_restarts_and_changed_definitions(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_node(tick(), clock=clock, store=url) as node:
        await node.pause_schedule("tick", "moving")
        await clock.advance("10m")
    async with running_node(tick("*/5 * * * *"), clock=clock, store=url) as node:
        schedule = await the_schedule(node)
        assert (schedule.paused, schedule.note, schedule.cron) == (True, "moving", "*/5 * * * *")
        (entry,) = await schedule.fires()
        assert (entry.outcome, entry.count, entry.reason, entry.ongoing) == (FireOutcome.PAUSED, 10, "moving", False)
        await clock.advance("10m")
        assert await node.count() == 0


async def test_a_change_at_run_time_survives_restarts(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_node(tick(), clock=clock, store=url) as node:
        await node.add_schedule(tick().with_options(cron="0 3 * * *"))
    async with running_node(tick(), clock=clock, store=url) as node:
        assert (await the_schedule(node)).cron == "0 3 * * *"
    async with running_node(tick("*/2 * * * *"), clock=clock, store=url) as node:
        # code that says something new is heard again
        assert (await the_schedule(node)).cron == "*/2 * * * *"


async def test_equal_versions_differ_and_the_last_start_wins_with_a_warning(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    url = shared_url()
    async with running_node(tick("0 1 * * *"), clock=clock, store=url, name="old"):
        assert not logged(caplog)
        async with running_node(tick("0 2 * * *"), clock=clock, store=url, name="new") as new:
            assert (await the_schedule(new)).cron == "0 2 * * *"
    (warning,) = [one.getMessage() for one in logged(caplog)]
    assert "'tick' has a new definition" in warning
    assert "raise version=" in warning


async def test_an_older_replica_never_reverts_a_newer_definition(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    url = shared_url()
    old, new = tick("0 1 * * *", version=1), tick("0 2 * * *", version=2)
    for deployed, cron in ((old, "0 1 * * *"), (new, "0 2 * * *"), (old, "0 2 * * *"), (new, "0 2 * * *")):
        async with running_node(deployed, clock=clock, store=url) as node:
            assert (await the_schedule(node)).cron == cron
    # nor does it when the newer one was changed at run time, by a handle without a version
    async with running_node(new, clock=clock, store=url) as node:
        await node.add_schedule(Job("tick", cron="0 9 * * *"))
    async with running_node(old, clock=clock, store=url) as node:
        schedule = await the_schedule(node)
        assert (schedule.cron, schedule.version) == ("0 9 * * *", 2)
    assert not logged(caplog)


async def test_an_interval_keeps_its_anchor_while_its_length_is_the_same(clock: VirtualClock) -> None:
    url = shared_url()
    start = to_datetime(clock.time_us())
    async with running_node(Job("tick", nothing, every="10m"), clock=clock, store=url) as node:
        assert (await the_schedule(node)).next_at == start + timedelta(minutes=10)
        await clock.advance("13m")
    async with running_node(Job("tick", nothing, every="10m", priority=1), clock=clock, store=url) as node:
        schedule = await the_schedule(node)
        assert (schedule.priority, schedule.next_at) == (1, start + timedelta(minutes=20))
    async with running_node(Job("tick", nothing, every="4m"), clock=clock, store=url) as node:
        assert (await the_schedule(node)).next_at == start + timedelta(minutes=17)


async def test_a_new_definition_steps_over_what_was_missed_and_says_so(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_node(tick(), clock=clock, store=url):
        await clock.advance("90s")
    await clock.advance("10m")
    async with running_node(tick("0 * * * *"), clock=clock, store=url) as node:
        schedule = await the_schedule(node)
        missed, fired = await schedule.fires()

        assert (fired.outcome, fired.count) == (FireOutcome.FIRED, 1)
        assert (missed.outcome, missed.count, missed.reason) == (FireOutcome.MISSED, 10, "the schedule was changed")
        assert (missed.nominal, missed.until) == (
            datetime(2026, 1, 1, 0, 2, tzinfo=UTC),
            datetime(2026, 1, 1, 0, 11, tzinfo=UTC),
        )
        assert schedule.next_at == datetime(2026, 1, 1, 1, tzinfo=UTC)
        assert len(await node.lookup_instances(Query(kind="tick"))) == 1


async def test_what_was_missed_is_not_stepped_over_where_something_else_is_new(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_node(tick(), clock=clock, store=url):
        await clock.advance("90s")
    await clock.advance("10m")
    changed = tick(priority=1, misfire="run_all", overlap="allow")
    async with running_node(changed, clock=clock, store=url) as node:
        await clock.advance("31s")
        assert [entry.nominal.minute for entry in await node.fires("tick")] == list(range(12, 0, -1))
        assert {one.priority for one in await node.lookup_instances()} == {5, 1}


async def test_what_a_later_release_wrote_is_left_alone(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    url = shared_url()
    store = memory_store(clock, url)
    await store.open()
    put = SchedulePut(name="tick", kind="tick", definition=b"\x93from the future", next_us=clock.time_us() + 60_000_000)
    assert await store.put_schedule(put) is not None
    async with running_node(tick(), clock=clock, store=url) as node:
        await clock.advance("3m")
        schedule = await the_schedule(node)
        assert schedule.row.definition == put.definition
        assert "cannot be read" in schedule.to_dict()["error"]
    await store.close()
    assert any("left as it is" in one.getMessage() for one in caplog.records)


async def test_what_the_store_lost_is_written_again_when_the_node_joins_anew(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    url = shared_url()
    async with running_node(tick(), Job("gone", nothing, every="1h"), store=url, clock=clock) as node:
        node.unregister("gone")
        await clock.run(wipe_namespace(url, namespace="default", clock=clock))
        await clock.advance(10)

        assert (await the_schedule(node)).name == "tick"
        await clock.advance(60)
        assert [one.outcome for one in await node.fires("tick")] == [FireOutcome.FIRED]
    assert "has lost 1 schedule(s) that code defines, such as 'tick'" in caplog.text


async def test_what_was_removed_stays_so_when_the_node_joins_anew(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    url = shared_url()
    async with running_node(tick(), store=url, clock=clock, name="one") as node:
        assert await node.remove_schedule("tick")
        (view,) = await node.nodes()
        peer = memory_store(clock, url)
        await peer.open()
        await peer.leave(view.info.incarnation)
        await clock.advance(10)

        assert "node 'one' was declared dead by a peer; it joins under a new incarnation" in caplog.text
        assert await node.schedules() == []
        await peer.close()


async def test_a_store_that_is_away_while_it_is_written_is_asked_again(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    fault = flaky.fail("put_schedule")
    async with running_node(tick(), clock=clock, store=flaky.store) as node:
        assert await node.schedules() == []
        await clock.advance(2)
        assert fault.met.is_set()
        flaky.heal()
        await clock.advance(2)
        assert (await the_schedule(node)).name == "tick"


@pytest.mark.parametrize("fault", ["repeat", "lose_answers"])
async def test_a_put_that_arrives_twice_changes_nothing_twice(clock: VirtualClock, fault: str) -> None:
    flaky = flaky_store(clock)
    getattr(flaky, fault)("put_schedule", times=1)
    async with running_node(tick(), clock=clock, store=flaky.store) as node:
        await clock.advance("2m30s")
        schedule = await the_schedule(node)
        assert schedule.row.revision == 1
        assert [entry.nominal.minute for entry in await schedule.fires()] == [2, 1]


@job(kind="decorated", cron="*/10 * * * *")
async def decorated() -> str:
    return "still a function"


async def test_a_decorated_function_recurs_and_stays_a_function(clock: VirtualClock) -> None:
    async with running_node(decorated, clock=clock) as node:
        assert await decorated() == "still a function"
        await clock.advance("21m")
        assert [await one.result() for one in await node.lookup_instances()] == ["still a function"] * 2


async def test_only_virtual_time_can_be_moved() -> None:
    async with running_node(clock=SystemClock()) as node:
        with pytest.raises(RuntimeError, match="VirtualClock"):
            await advance(node, "1h")
