"""The manager's verbs about schedules: adding, pausing, triggering, backfilling, and reading the ledger."""

import asyncio
import inspect
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from peerjob import (
    ArgumentError,
    Backfill,
    FireOutcome,
    Instance,
    Job,
    Manager,
    Node,
    OptionError,
    Overlap,
    PayloadTooLargeError,
    Schedule,
    ScheduleError,
    State,
    StoreUnavailableError,
    UnknownScheduleError,
)
from peerjob.model.clock import to_us
from peerjob.model.definition import Definition, encode_definition
from peerjob.model.errors import DecodeError, NodeStateError
from peerjob.model.firing import SchedulePut, ScheduleRow
from peerjob.node.manager.schedule_changes import put_of
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import running_node
from support.factories import flaky_store, running_nodes

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


async def report(what: str, copies: int = 1) -> str:
    return what * copies


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


REPORT = Job("report", report)
EVERY_MINUTE = REPORT.with_options(cron="* * * * *")


def minute(number: int) -> datetime:
    return NEW_YEAR + timedelta(minutes=number)


async def ledger(schedule: Schedule) -> list[tuple[str, int, int]]:
    """Outcome, minute and count of each record."""
    return [
        (str(entry.outcome), (to_us(entry.nominal) - to_us(NEW_YEAR)) // 60_000_000, entry.count)
        for entry in await schedule.fires()
    ]


# -- adding and changing


async def test_a_schedule_is_added_with_its_arguments(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE.with_options(name="twice", tags=["nightly"]), "ab", copies=2)
        assert (schedule.name, schedule.kind, schedule.args, schedule.kwargs) == (
            "twice",
            "report",
            ("ab",),
            {"copies": 2},
        )
        assert schedule.next_at == minute(1)
        await clock.advance("61s")
        (instance,) = await node.lookup_instances()
        assert (await instance.result(), instance.tags, instance.schedule) == ("abab", ("nightly",), "twice")
        assert schedule.to_dict()["arguments"] == ["ab", 2]


async def test_calls_kinds_and_handles_are_taken_too(clock: VirtualClock) -> None:
    defined = Job("defined", report, every="1h").with_options(name="other")
    async with running_node(REPORT, clock=clock) as node:
        await node.add_schedule(EVERY_MINUTE.with_options(name="call").call("a"))
        await node.add_schedule(Job("report", cron="@hourly", name="handle"), "b")
        await node.add_schedule(Job("elsewhere", every=60), "anything", 5)
        with pytest.raises(ArgumentError):
            node.register(defined)
        node.register(Job("ticking", lambda: None, every="1h", name="kind"))
        await node.remove_schedule("kind")
        await node.add_schedule("ticking")

        assert [(one.name, one.kind) for one in await node.schedules()] == [
            ("call", "report"),
            ("elsewhere", "elsewhere"),
            ("handle", "report"),
            ("kind", "ticking"),
        ]


async def test_options_of_a_variant_travel_with_its_instances(clock: VirtualClock) -> None:
    async def fail() -> None:
        raise ValueError

    failing = Job("fail", fail)
    async with running_node(failing, clock=clock) as node:
        await node.add_schedule(failing.with_options(cron="* * * * *", max_retries=2, priority=-7, key="one"))
        await clock.advance("61s")
        (instance,) = await node.lookup_instances()
        assert (instance.attempts, instance.priority, instance.key) == (3, -7, "one")


@pytest.mark.parametrize(
    ("wrong", "args", "error"),
    [
        (REPORT, ("a",), ScheduleError),
        (EVERY_MINUTE, (), ArgumentError),
        (EVERY_MINUTE, ("a", 1, 2), ArgumentError),
        (EVERY_MINUTE, ("a" * 2_000_000,), PayloadTooLargeError),
        ("nothing", (), LookupError),
        (report, (), OptionError),
    ],
    ids=["no recurrence", "too few", "too many", "too large", "unknown kind", "no job"],
)
async def test_what_is_wrong_is_refused_before_anything_is_stored(
    clock: VirtualClock, wrong: Any, args: tuple[Any, ...], error: type[Exception]
) -> None:
    async with running_node(REPORT, clock=clock) as node:
        with pytest.raises(error):
            await node.add_schedule(wrong, *args)
        assert await node.schedules() == []


async def test_the_same_again_changes_nothing_and_something_else_takes_effect_at_once(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        first = await node.add_schedule(EVERY_MINUTE, "a")
        await clock.advance("90s")
        assert (await node.add_schedule(EVERY_MINUTE, "a")).row.revision == first.row.revision
        changed = await node.add_schedule(REPORT.with_options(every="10s"), "b")
        assert changed.next_at == NEW_YEAR + timedelta(seconds=100)
        await clock.advance("11s")

        assert [instance.args for instance in await node.lookup_instances()] == [("a",), ("b",)]
        assert len(await node.schedules()) == 1


def test_a_change_of_times_repeats_no_time_that_a_clock_ahead_has_fired() -> None:
    hour_us, now_us = 3_600_000_000, 100 * 3_600_000_000
    hourly = Definition(kind="k", spec=b"", cron="0 * * * *")
    row = ScheduleRow(
        name="s", kind="k", definition=encode_definition(hourly), revision=1, next_us=now_us + hour_us, last_us=now_us
    )
    put = put_of("s", structs.replace(hourly, cron="*/30 * * * *"), row, now_us=now_us - 500_000, node="a")
    assert (put.next_us, put.account) == (now_us + hour_us // 2, None)


CHANGED: dict[str, Any] = {
    "kind": "other",
    "spec": b"other",
    "cron": "30 4 * * *",
    "every_us": 60_000_000,
    "anchor_us": 5,
    "timezone": "Europe/Berlin",
    "jitter_us": 7,
    "hashed": True,
    "overlap": Overlap.ALLOW,
    "queue_limit": 9,
    "misfire": "run_all",
    "misfire_limit": 11,
    "start_deadline_us": 13,
    "priority": 1,
    "key": "key",
    "limit_key": "limit key",
    "key_concurrency": 17,
    "tags": ("tag",),
    "retention_us": 19,
    "max_crashes": 21,
    "version": 23,
    "written": "digest",
    "description": "text",
}
"""Another value of each field of a definition."""


@pytest.mark.parametrize("field", [field.name for field in structs.fields(Definition)])
def test_a_change_moves_the_next_time_if_it_changes_the_times(field: str) -> None:
    old = Definition(kind="report", spec=b"", cron="0 3 * * *")
    fields = {"cron": None if field == "every_us" else old.cron, field: CHANGED[field]}
    new = structs.replace(old, **fields)
    assert getattr(old, field) != getattr(new, field)
    now_us = to_us(NEW_YEAR)
    kept_us = now_us + 1  # no time of any recurrence
    row = ScheduleRow(name="s", kind="report", definition=encode_definition(old), revision=1, next_us=kept_us)
    put = put_of("s", new, row, now_us=now_us, node="n")
    assert (put.next_us == kept_us) == (field not in ("cron", "every_us", "timezone"))
    if field == "timezone":
        assert put.next_us == to_us(NEW_YEAR + timedelta(hours=2))


async def test_many_nodes_that_add_one_name_make_one_schedule(clock: VirtualClock) -> None:
    async with running_nodes(clock, *"abcde", jobs=[REPORT]) as nodes:
        adding = [node.add_schedule(EVERY_MINUTE, str(number)) for number, node in enumerate(nodes)]
        await clock.run(asyncio.gather(*adding))
        await clock.advance("61s")

        assert await nodes[0].count() == 1


async def test_schedules_are_found_by_name_and_listed_in_its_order(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        names = [f"{number:04}" for number in range(0, 1200, 7)]
        for name in reversed(names):
            await node.add_schedule(EVERY_MINUTE.with_options(name=name), "a")
        assert [one.name for one in await node.schedules()] == names
        found = await node.lookup_schedule("0007")
        assert (found, found.args) == (await found.refresh(), ("a",))
        await node.remove_schedule("0014")
        assert [one.name for one in await node.schedules()] == [name for name in names if name != "0014"]


async def test_an_unknown_name_is_an_error_of_its_own(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        for asking in (
            node.lookup_schedule("x"),
            node.pause_schedule("x"),
            node.resume_schedule("x"),
            node.trigger_schedule("x"),
            node.fires("x"),
            node.next_fires("x"),
            node.backfill("x", minute(0), minute(1)),
        ):
            with pytest.raises(UnknownScheduleError, match="no schedule 'x'"):
                await asking
        assert await node.remove_schedule("x") is False
        wrong: Any = REPORT
        with pytest.raises(OptionError, match="schedule: expected a Schedule or text, got <Job"):
            await node.pause_schedule(wrong)
        for verb in (node.pause_schedule, node.remove_schedule, node.lookup_schedule, node.next_fires, node.fires):
            with pytest.raises(OptionError, match="expected text without half of a surrogate pair"):
                await verb("\ud800")


@pytest.mark.parametrize("name", ["", "a" * 1001, "\ud800", "a\x00b", 5], ids=ascii)
def test_a_name_that_no_store_can_keep_is_refused(name: Any) -> None:
    with pytest.raises(OptionError, match="name"):
        REPORT.with_options(every=5, name=name)


async def test_names_of_all_kinds_are_kept(clock: VirtualClock) -> None:
    names = ["a/b", "{tag}", "ünï", " ", "*", "a" * 1000, "%2F", "..", "a:b"]
    async with running_node(REPORT, clock=clock) as node:
        for name in names:
            await node.add_schedule(EVERY_MINUTE.with_options(name=name), "a")
        await clock.advance("61s")
        assert sorted(one.name for one in await node.schedules()) == sorted(names)
        assert {one.schedule for one in await node.lookup_instances()} == set(names)
        for name in names:
            assert len(await node.fires(name)) == 1


# -- pausing


async def test_a_pause_writes_nothing_until_it_is_over(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(REPORT, clock=clock, store=flaky.store) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        await clock.advance("90s")
        assert await schedule.pause("holidays") is schedule
        assert (schedule.paused, schedule.note) == (True, "holidays")
        fired = flaky.calls["fire"]
        await clock.advance("10m")

        assert flaky.calls["fire"] == fired
        assert await ledger(schedule) == [("paused", 2, 10), ("fired", 1, 1)]
        going, _ = await schedule.fires()
        assert (going.ongoing, going.recorded_at, going.reason) == (True, None, "holidays")
        await schedule.resume()
        assert (schedule.paused, schedule.note, schedule.next_at) == (False, "", minute(12))
        assert await ledger(schedule) == [("paused", 2, 10), ("fired", 1, 1)]
        over, _ = await schedule.fires()
        assert (over.ongoing, over.reason, over.until) == (False, "holidays", minute(11))
        await clock.advance("1m")
        assert await ledger(schedule) == [("fired", 12, 1), ("paused", 2, 10), ("fired", 1, 1)]


async def test_a_pause_of_no_nominal_time_leaves_no_record(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        await schedule.pause()
        await clock.advance("30s")
        assert await ledger(schedule) == []
        await schedule.resume()
        await clock.advance("31s")
        assert await ledger(schedule) == [("fired", 1, 1)]


async def test_pausing_and_resuming_twice_is_once_and_a_note_may_change(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        again = await node.resume_schedule(schedule)
        assert again.row == schedule.row
        await node.pause_schedule("report", "why")
        paused = await node.pause_schedule("report", "why")
        assert (await node.pause_schedule(paused, "because")).note == "because"
        await clock.advance("2m")
        await node.resume_schedule(paused)
        assert await ledger(schedule) == [("paused", 1, 2)]


async def test_a_pause_stops_a_fire_that_is_on_its_way(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(REPORT, clock=clock, store=flaky.store) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        on_its_way = flaky.stall("fire", times=1)
        await clock.advance("60s")
        assert on_its_way.met.is_set()
        await schedule.pause()
        on_its_way.release()
        await clock.advance("10s")

        assert await node.count() == 0
        assert await ledger(schedule) == [("paused", 1, 1)]


async def test_the_ongoing_pause_keeps_to_the_times_that_were_asked_for(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        await schedule.pause()
        await clock.advance("10m")
        assert [entry.count for entry in await schedule.fires(after=minute(5))] == [10]
        assert await schedule.fires(after=minute(11)) == []
        assert await schedule.fires(before=minute(1)) == []
        with pytest.raises(ScheduleError, match="time zone"):
            await schedule.fires(after=datetime(2026, 1, 1))  # noqa: DTZ001


# -- triggering


async def test_a_trigger_makes_one_instance_now_also_while_paused(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        await schedule.pause()
        await clock.advance("5m")
        instance = await schedule.trigger()
        assert instance is not None
        assert await instance.result() == "a"
        assert (instance.schedule, instance.nominal_at) == ("report", minute(5))
        assert (await node.lookup_instance(instance.id)).nominal_at == minute(5)
        assert await ledger(schedule) == [("triggered", 5, 1), ("paused", 1, 5)]
        triggered = (await schedule.fires())[0]
        assert (triggered.instance_id, triggered.term, triggered.coordinator) == (instance.id, None, None)


async def test_a_trigger_gives_none_where_the_overlap_policy_is_in_the_way(clock: VirtualClock) -> None:
    sleeping = Job("sleep", sleep)
    async with running_node(sleeping, clock=clock) as node:
        schedule = await node.add_schedule(sleeping.with_options(cron="0 0 * * *"), 600)
        first = await schedule.trigger()
        await clock.advance(1)
        assert first is not None
        assert await schedule.trigger() is None
        assert [str(entry.outcome) for entry in await schedule.fires()] == ["skipped", "triggered"]
        await schedule.refresh()
        assert schedule.running == first.id
        await node.add_schedule(sleeping.with_options(cron="0 0 * * *", overlap="allow"), 600)
        assert await schedule.trigger() is not None


async def test_a_trigger_queues_or_replaces_as_the_policy_says(clock: VirtualClock) -> None:
    sleeping = Job("sleep", sleep)
    async with running_node(sleeping, clock=clock) as node:
        queued = await node.add_schedule(sleeping.with_options(every="1d", overlap="queue", name="queue"), 60)
        first, second, third = [await queued.trigger() for _ in range(3)]
        assert first is not None
        assert second is not None
        assert third is None
        await clock.advance(1)
        await queued.refresh()
        assert (queued.running, queued.waiting) == (first.id, (second.id,))
        assert (await second.refresh()).state is State.SCHEDULED
        replacing = await node.add_schedule(sleeping.with_options(every="1d", overlap="replace", name="replace"), 60)
        old, new = await replacing.trigger(), await replacing.trigger()
        assert old is not None
        assert new is not None
        await clock.advance(2)
        assert (await old.refresh()).state is State.CANCELLED
        assert (await new.refresh()).state is State.PROCESSING
        (entry, _) = await replacing.fires()
        assert entry.replaced == old.id


async def test_a_trigger_whose_answer_is_lost_makes_one_instance(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(REPORT, clock=clock, store=flaky.store) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        flaky.repeat("fire", times=1)
        assert await schedule.trigger() is not None
        assert await node.count() == 1


# -- backfilling and looking ahead


async def test_a_backfill_makes_up_for_the_past_once(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        await clock.advance("3m1s")
        start = NEW_YEAR - timedelta(minutes=5)
        assert await schedule.backfill(start, minute(10)) == Backfill(times=9, made=6, known=3)
        assert await node.backfill("report", start, minute(10)) == Backfill(times=9, known=9)
        await clock.advance(1)
        nominal = sorted(one.nominal_at or NEW_YEAR for one in await node.lookup_instances())
        assert nominal == [minute(number) for number in range(-5, 4)]
        for wrong in ((datetime(2026, 1, 1), minute(1)), (minute(0), datetime(2026, 1, 1))):  # noqa: DTZ001
            with pytest.raises(ScheduleError, match="time zone"):
                await schedule.backfill(*wrong)
        with pytest.raises(ScheduleError, match="100,000"):
            await schedule.backfill(NEW_YEAR - timedelta(days=90), minute(0))


async def test_the_next_fires_are_previewed(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        assert await schedule.next_fires(3) == [minute(1), minute(2), minute(3)]
        assert len(await node.next_fires("report")) == 5
        await schedule.pause()
        await clock.advance("10m30s")
        assert await schedule.next_fires(1) == [minute(11)]
        for wrong in (0, 1001):
            with pytest.raises(OptionError):
                await schedule.next_fires(wrong)


async def test_the_ledger_is_read_in_pages(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        await clock.advance("10m1s")
        first = await schedule.fires(limit=4)
        rest = await schedule.fires(limit=100, cursor=first.cursor)
        assert [entry.nominal for entry in [*first, *rest]] == [minute(number) for number in range(10, 0, -1)]
        assert rest.cursor is None
        for wrong in (0, 10_001):
            with pytest.raises(OptionError, match="limit"):
                await schedule.fires(limit=wrong)
        some = await node.fires("report", after=minute(3), before=minute(5))
        assert [entry.nominal for entry in some] == [minute(4), minute(3)]
        entry = some[0]
        assert (entry.node, entry.late, entry.outcome) == (node.name, timedelta(), FireOutcome.FIRED)
        leader = await node.leader()
        assert leader is not None
        assert (entry.term, entry.coordinator) == (leader.term.number, leader.term.coordinator)
        assert entry.to_dict()["instance"] == entry.instance_id
        assert repr(entry) == "<fired 2026-01-01T00:04:00+00:00>"


async def test_a_removed_schedule_fires_no_more_and_comes_back_without_its_ledger(clock: VirtualClock) -> None:
    async with running_node(REPORT, clock=clock) as node:
        schedule = await node.add_schedule(EVERY_MINUTE, "a")
        await clock.advance("61s")
        assert await schedule.remove() is True
        assert await schedule.remove() is False
        await clock.advance("5m")
        assert await node.count() == 1
        with pytest.raises(UnknownScheduleError):
            await schedule.refresh()
        back = await node.add_schedule(EVERY_MINUTE, "b")
        assert await ledger(back) == []


# -- handles


async def test_what_cannot_be_read_is_listed_and_can_be_paused_and_removed(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(REPORT, clock=clock, store=flaky.store) as node:
        put = SchedulePut(name="odd", kind="later", definition=b"?", next_us=to_us(minute(1)))
        assert await flaky.inner.put_schedule(put) is not None
        await node.add_schedule(EVERY_MINUTE, "a")
        odd, _ = await node.schedules()
        assert repr(odd) == "<Schedule 'odd' of 'later', next 2026-01-01T00:01:00+00:00>"
        assert "cannot be read" in odd.to_json()
        for asking in (lambda: odd.cron, lambda: odd.overlap, lambda: odd.args):
            with pytest.raises(DecodeError):
                asking()
        for acting in (odd.trigger(), odd.next_fires(), odd.backfill(minute(0), minute(1))):
            with pytest.raises(DecodeError):
                await acting
        assert (await odd.pause("odd")).paused
        await clock.advance("3m")
        assert [entry.count for entry in await odd.fires()] == [1]
        with pytest.raises(DecodeError):
            await odd.resume()
        assert await odd.remove()


async def test_a_handle_without_a_node_is_a_snapshot() -> None:
    schedule = Schedule(None, ScheduleRow(name="a", kind="b", definition=b"", revision=1, next_us=None))
    assert repr(schedule) == "<Schedule 'a' of 'b', next never>"
    assert {schedule, Schedule(None, schedule.row)} == {schedule}
    with pytest.raises(NodeStateError):
        await schedule.refresh()


async def test_a_schedule_that_others_change_all_the_time_is_given_up_with_an_error(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(REPORT, clock=clock, store=flaky.store) as node:
        await node.add_schedule(EVERY_MINUTE, "a")
        flaky.change_answers(lambda _: [None], "get_schedules", times=None)
        with pytest.raises(StoreUnavailableError, match="changes all the time"):
            await clock.run(node.add_schedule(EVERY_MINUTE, "b"))


async def test_verbs_need_a_running_node() -> None:
    node = Node("memory://", jobs=[REPORT])
    for asking in (node.schedules(), node.leader(), node.add_schedule(EVERY_MINUTE, "a"), node.fires("a")):
        with pytest.raises(NodeStateError):
            await asking
    assert not node.is_leader


def test_the_blocking_twins_say_the_same() -> None:
    async def remember(what: str) -> str:
        return what

    job = Job("remember", remember)
    with Node("memory://", jobs=[job]).blocking() as manager:
        schedule = manager.add_schedule(job.with_options(every="0.05s", overlap="allow"), "a")
        assert (schedule.name, schedule.every, schedule.overlap) == (
            "remember",
            timedelta(milliseconds=50),
            Overlap.ALLOW,
        )
        triggered = schedule.trigger()
        assert triggered is not None
        assert triggered.result(timeout=60) == "a"
        assert (triggered.schedule, triggered.nominal_at is not None) == ("remember", True)
        while not [one for one in manager.iter_instances() if one.id != triggered.id]:
            pass
        assert [one.name for one in manager.schedules()] == ["remember"]
        assert schedule.pause("enough").note == "enough"
        assert manager.lookup_schedule("remember").refresh().paused
        assert schedule.fires(limit=1)[0].schedule == "remember"
        assert len(schedule.next_fires(2)) == 2
        now = datetime.now(UTC)
        assert manager.backfill("remember", now - timedelta(seconds=1), now).times > 0
        assert not schedule.resume().paused
        leader = manager.leader()
        assert leader is not None
        assert leader.since is not None
        assert manager.remove_schedule(schedule)
        assert not schedule.remove()
        assert repr(schedule).startswith("<BlockingSchedule 'remember'")


async def test_processors_hear_of_fires_and_triggers_as_of_any_instance(clock: VirtualClock) -> None:
    heard: list[tuple[str, State]] = []

    def on_state_change(instance: Instance[Any], state: State) -> None:
        heard.append((instance.schedule or "", state))

    defined = Job("defined", lambda: None, on_state_change=on_state_change, every="1m")
    variant = Job("variant", lambda: None)
    async with running_node(defined, variant, clock=clock) as node:
        await node.trigger_schedule("defined")
        await clock.advance(1)
        course = [State.CREATED, State.SCHEDULED, State.PROCESSING, State.COMPLETED]
        assert heard == [("defined", state) for state in course]
        heard.clear()
        await clock.advance(60)
        assert heard == [("defined", state) for state in course]
        await node.pause_schedule("defined")
        heard.clear()
        await node.add_schedule(variant.with_options(every="5s", on_state_change=on_state_change))
        await clock.advance(6)
        assert heard == [("variant", state) for state in course]


def test_each_verb_of_a_schedule_has_the_defaults_of_the_manager() -> None:
    """For each verb whose docstring names the one of the manager."""
    named = {name: re.match(r"Like `Manager\.(\w+)`", verb.__doc__ or "") for name, verb in vars(Schedule).items()}
    alike = {name: getattr(Manager, found[1]) for name, found in named.items() if found is not None}
    assert len(alike) >= 7
    for name, verb in alike.items():
        ours, theirs = inspect.signature(vars(Schedule)[name]).parameters, inspect.signature(verb).parameters
        assert {one: ours[one].default for one in ours if one != "self"} == {
            one: theirs[one].default for one in theirs if one not in ("self", "schedule")
        }, name
