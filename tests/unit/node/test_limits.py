"""Limits on nodes: what runs at a time is counted inside the bodies, and starts by the virtual clock."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from peerjob import (
    INJECTED,
    Context,
    Job,
    JobGroup,
    KeyLimit,
    LayoutError,
    Limit,
    LimitView,
    Node,
    OptionError,
    Query,
    State,
    UnknownKindError,
    job,
)
from peerjob.handles.observing import observe
from peerjob.handles.reasons import why_instance
from peerjob.model.ages import moment
from peerjob.model.clock import to_datetime
from peerjob.model.ids import IdSource
from peerjob.model.record import NodeInfo
from peerjob.node.manager import kind_catalogue
from peerjob.testing import eager_async
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import blocking_node, drain, running_node
from support import bodies
from support.factories import flaky_store, memory_store, running_nodes, shared_url
from support.inside import Inside


@pytest.fixture
def inside(clock: VirtualClock) -> Inside:
    return Inside(clock)


async def limits_of(node: Node) -> dict[str, LimitView]:
    return {view.name or view.kinds[0]: view async for view in node.limits()}


# -- concurrency -------------------------------------------------------------------------------------------------------


async def test_no_more_bodies_than_the_limit_run_at_a_time_on_all_nodes(clock: VirtualClock, inside: Inside) -> None:
    shared = Limit("db", concurrency=3)

    def body(kind: str) -> Job[..., Any, Any]:
        async def work() -> None:
            await inside.run("all", 0.5)

        return Job(kind, work, limits=[shared])

    jobs = [body("read"), body("write")]
    async with running_nodes(clock, "a", "b", "c", jobs=jobs, workers=5) as (a, *_):
        await a.schedule_many(made.call() for _ in range(20) for made in jobs)
        await drain(a)
        assert inside.most["all"] == 3
        # the workers of the limit are never idle: 40 runs of 0.5 s by 3
        assert clock.elapsed() < 40 * 0.5 / 3 + 2
        view = (await limits_of(a))["db"]
        assert (view.kinds, view.concurrency, view.running, view.waiting) == (("read", "write"), 3, 0, 0)


async def test_other_kinds_do_not_wait_behind_a_full_limit(clock: VirtualClock, inside: Inside) -> None:
    async def slow() -> None:
        await inside.run("slow", 100)

    async with running_node(
        Job("slow", slow, limits=[Limit("one", concurrency=1)]), Job("free", lambda: "ran"), clock=clock, workers=3
    ) as node:
        await node.schedule_many(node.job("slow").call() for _ in range(10))
        free = await node.schedule("free")
        assert await free.result(5) == "ran"
        assert inside.most["slow"] == 1


async def test_a_full_limit_is_no_reason_to_poll(clock: VirtualClock) -> None:
    async def hold() -> None:
        await asyncio.sleep(10_000)

    url = shared_url()
    limited = Job("hold", hold, limits=[Limit("one", concurrency=1)])
    flaky = flaky_store(clock, url)
    async with running_node(limited, store=url, clock=clock, name="holder") as holder:
        await holder.schedule_many(limited.call() for _ in range(50))
        await clock.advance(1)
        async with running_node(limited, store=flaky.store, clock=clock, name="idle"):
            await clock.advance(10)
            before = flaky.calls["turn"] + flaky.calls["claim_on_hint"]
            await clock.advance(60)
            # one wait for hints ends every 5 s; each answer of a renewal says that no work is due
            assert flaky.calls["turn"] + flaky.calls["claim_on_hint"] - before <= 30


async def test_a_setting_is_stronger_than_the_code_until_it_is_taken_back(clock: VirtualClock, inside: Inside) -> None:
    async def work() -> None:
        await inside.run("work", 1)

    limited = Job("work", work, limits=[Limit("one", concurrency=1)])
    async with running_node(limited, clock=clock, workers=10) as node:
        await node.schedule_many(limited.call() for _ in range(40))
        await clock.advance(2.5)
        assert inside.most["work"] == 1
        await node.set_limit("one", concurrency=4, note="more")
        await clock.advance(0.2)
        assert inside.now["work"] == 4
        view = (await limits_of(node))["one"]
        assert (view.concurrency, view.source, view.note) == (4, "setting", "more")
        await node.set_limit("one")
        await clock.advance(3)
        assert inside.now["work"] == 1
        assert (await limits_of(node))["one"].source == "code"
        await node.set_limit("one")
        for concurrency in (1, None):
            with pytest.raises(OptionError, match=r"that a kind has \(known: one\), got .two."):
                await node.set_limit("two", concurrency=concurrency)
            with pytest.raises(OptionError, match="a kind with a key limit"):
                await node.set_key_limit("work", concurrency=concurrency)


async def test_the_answer_to_an_unknown_limit_lists_few_of_the_known_ones(clock: VirtualClock) -> None:
    jobs = [Job(f"work-{n}", bodies.pid, limits=[Limit(f"limit-{n:02}", concurrency=1)]) for n in range(12)]
    async with running_node(*jobs, clock=clock) as node:
        with pytest.raises(OptionError, match=r"\(known: limit-00, .*, limit-09 and 2 more\), got .two."):
            await node.set_limit("two", concurrency=1)


# -- rates -------------------------------------------------------------------------------------------------------------


async def test_a_rate_holds_between_all_pairs_of_starts_and_is_used_up(clock: VirtualClock, inside: Inside) -> None:
    async def call() -> None:
        await inside.run("call", 0)

    limited = Job("call", call, limits=[Limit("api", rate="20/s", burst=5)])
    async with running_nodes(clock, "a", "b", jobs=limited) as (a, _):
        await a.schedule_many(limited.call() for _ in range(200))
        await drain(a)
    starts = sorted(inside.starts["call"])
    assert len(starts) == 200
    for first, begin in enumerate(starts):
        for last in range(first, min(200, first + 60)):
            assert last - first + 1 <= 5 + (starts[last] - begin) * 20 + 1e-3 * 20
    took = starts[-1] - starts[0]
    assert (200 - 5) / 20 - 0.1 <= took <= (200 - 5) / 20 * 1.02 + 0.1


@pytest.mark.parametrize(("kind", "ahead"), [("plain", True), ("rated", False)])
async def test_a_node_claims_nothing_ahead_of_a_kind_with_a_rate(clock: VirtualClock, kind: str, ahead: bool) -> None:
    async def quick(seconds: float = 0) -> None:
        await asyncio.sleep(seconds)

    rated = Job("rated", quick, limits=[Limit("api", rate="1000/s", burst=500)])
    async with running_node(Job("plain", quick), rated, clock=clock, workers=2) as node:
        await node.schedule_many(node.job(kind).call() for _ in range(50))  # the kind is known to be quick
        await drain(node)
        await node.schedule_many(node.job(kind).call(0.09) for _ in range(20))
        await clock.advance(0.05)
        assert (node.vitals().held > 0) is ahead
        assert (await node.count(Query(kind=kind, state=State.PROCESSING)) > 2) is ahead
        await drain(node)


async def test_a_throttle_closes_the_limit_for_all_nodes(clock: VirtualClock, inside: Inside) -> None:
    api = Limit("api", concurrency=10)

    async def call(context: Context = INJECTED) -> None:
        await inside.run("call", 0)
        if len(inside.starts["call"]) == 1:
            await context.throttle(api, "30s")
            context.snooze("1s")

    limited = Job("call", call, limits=[api])
    async with running_nodes(clock, "a", "b", jobs=limited, workers=1) as (a, b):
        await a.schedule(limited)
        await clock.advance(0.1)
        began = clock.elapsed()
        await b.schedule_many(limited.call() for _ in range(5))
        await clock.advance(20)
        assert len(inside.starts["call"]) == 1
        view = (await limits_of(a))["api"]
        assert view.opens_at is not None
        assert abs((view.opens_at - to_datetime(clock.time_us())).total_seconds() - 10) < 0.5
        await drain(a)
        assert len(inside.starts["call"]) == 7
        assert 29 < inside.starts["call"][1] - began < 32


async def test_a_throttle_of_a_limit_that_no_kind_has_is_refused(clock: VirtualClock) -> None:
    async def call(context: Context = INJECTED) -> None:
        await context.throttle("none", "30s")

    async with running_node(Job("call", call), clock=clock) as node:
        instance = await node.schedule("call")
        await instance.wait(10)
        assert instance.error is not None
        assert "limit: expected the name of a limit that a kind has, got 'none'" in instance.error.message


async def test_a_throttle_of_a_limit_that_a_newer_build_dropped_fails_no_body(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def call(context: Context = INJECTED) -> str:
        await context.throttle("api", "30s")
        return "done"

    url, limited = shared_url(), Job("call", call, limits=[Limit("api", concurrency=1)])
    async with running_node(limited, store=url, clock=clock) as old:
        async with running_node(Job("call", call), store=url, clock=clock):
            pass
        for _ in range(2):
            assert await clock.run((await old.schedule("call")).result(10)) == "done"
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "throttle() closes nothing: no kind has the limit 'api' any more, since other nodes dropped it"


@pytest.mark.parametrize(
    ("rate", "left", "cause"),
    [
        ("1/s", 8, "a job throttled it"),
        ("1/h", 8, "its rate of 1/h is used up, or a job throttled it"),
        (None, 8, "a job throttled it"),
    ],
)
async def test_why_tells_how_a_limit_was_closed(clock: VirtualClock, rate: str | None, left: float, cause: str) -> None:
    api = Limit("api", concurrency=10, rate=rate, burst=None if rate is None else 5)

    async def call(context: Context = INJECTED) -> None:
        await context.throttle(api, "10s")

    limited = Job("call", call, limits=[api])
    async with running_node(limited, clock=clock) as node:
        await clock.run((await node.schedule(limited)).wait())
        waiting = await node.schedule(limited)
        await clock.advance(10 - left)
        why = why_instance(await observe(node, waiting, to_datetime(clock.time_us())))
        (view,) = [view async for view in node.limits() if view.name]
        assert view.opens_at is not None
        assert why == [f"limit 'api' is closed until {moment(view.opens_at)}: {cause}"]


async def test_a_rate_that_is_used_up_is_told(clock: VirtualClock) -> None:
    limited = Job("call", lambda: None, limits=[Limit("api", rate="1/min", burst=1)])
    async with running_node(limited, clock=clock) as node:
        await clock.run((await node.schedule(limited)).wait())
        waiting = await node.schedule(limited)
        (why,) = why_instance(await observe(node, waiting, to_datetime(clock.time_us())))
        assert why.endswith(": its rate of 1/min is used up, or a job throttled it")


async def test_limits_of_kinds_without_a_description_are_read_together(clock: VirtualClock) -> None:
    """One after the other, fifty kinds would cost fifty times the way to the store and back."""
    store, kinds = flaky_store(clock), [f"kind{number}" for number in range(50)]
    async with running_node(clock=clock, store=store.store) as node:
        await store.inner.publish_kinds(kinds)
        store.slow(0.1, "limits")
        runtime = node._runtime  # pyright: ignore[reportPrivateUsage]
        assert runtime is not None
        began = clock.elapsed()
        await clock.run(runtime.catalogue.prepare(kinds))
        assert clock.elapsed() - began < 0.5
        assert store.calls["limits"] == 50
        assert all(runtime.catalogue.is_prepared(kind) for kind in kinds)


async def test_a_kind_whose_rule_was_dropped_is_read_again(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind_catalogue, "MAX_DESCRIBED", 3)
    kinds = [f"kind{number}" for number in range(5)]
    async with running_node(clock=clock) as node:
        runtime = node._runtime  # pyright: ignore[reportPrivateUsage]
        assert runtime is not None
        for _ in range(2):
            for kind in kinds:
                await runtime.catalogue.prepare([kind])
                assert runtime.catalogue.rule_of(kind) is not None
                assert [runtime.catalogue.is_prepared(one) for one in kinds].count(True) <= 3


# -- pauses ------------------------------------------------------------------------------------------------------------


async def test_a_paused_kind_is_not_claimed_and_its_running_instances_go_on(
    clock: VirtualClock, inside: Inside
) -> None:
    async def work() -> str:
        await inside.run("work", 5)
        return "ran"

    async with running_nodes(clock, "a", "b", jobs=[Job("work", work), Job("other", lambda: 1)]) as (a, b):
        running = await a.schedule("work")
        await clock.advance(1)
        await a.pause_kind("work", "migration")
        waiting = await b.schedule("work")
        assert await (await a.schedule("other")).result(5) == 1
        assert await running.result(10) == "ran"
        await clock.advance(60)
        assert (await waiting.refresh()).state is State.SCHEDULED
        view = (await limits_of(b))["work"]
        assert (view.name, view.paused, view.note, view.waiting) == ("", True, "migration", 1)
        why = why_instance(await observe(a, waiting, to_datetime(clock.time_us())))
        assert why == ["kind 'work' is paused: migration; jobctl resume --kind work lets nodes claim it"]
        began = clock.elapsed()
        await b.resume_kind("work")
        assert await waiting.result(10) == "ran"
        assert clock.elapsed() - began < 5.1
        assert await limits_of(a) == {}


async def test_a_pause_of_a_kind_that_nothing_runs_is_a_mistake(clock: VirtualClock) -> None:
    async with running_node(Job("work", lambda: 1), clock=clock) as node:
        for call in (node.pause_kind, node.resume_kind):
            with pytest.raises(UnknownKindError):
                await call("wrok")
        await node.resume_kind("work")


async def test_a_pause_of_a_kind_that_nothing_runs_any_more_can_end(clock: VirtualClock) -> None:
    url = shared_url()
    store = memory_store(clock, url)
    await store.open()
    async with running_node(Job("work", lambda: 1), store=url, clock=clock) as node:
        await store.pause_kind("gone", paused=True)
        await node.resume_kind("gone")
        assert await limits_of(node) == {}


def test_the_verbs_of_limits_block_too() -> None:
    with blocking_node(Job("work", lambda x: x, limits=[Limit("few", concurrency=3), KeyLimit("{x}")])) as manager:
        manager.pause_kind("work", "why")
        waiting = manager.schedule("work", 1)
        manager.set_limit("few", concurrency=2)
        manager.set_key_limit("work", concurrency=5)
        few, kind = manager.limits()
        assert (few.name, few.concurrency, few.waiting) == ("few", 2, 1)
        assert (kind.kinds, kind.concurrency, kind.paused, kind.note) == (("work",), 5, True, "why")
        manager.resume_kind("work")
        assert waiting.result(10) == 1
        assert list(manager.key_limits("work")) == []


# -- definitions -------------------------------------------------------------------------------------------------------

A, B, C = Limit("a", concurrency=1), Limit("b", rate="1/s"), Limit("c", concurrency=1)
KEY = KeyLimit("{x}")


@pytest.mark.parametrize(
    "limits",
    [[A, B, C], [KEY, KEY], [A, A], [A, Limit("a", concurrency=2)], ["a"], A, "a", None, 7],
    ids=[
        "three",
        "two keys",
        "one twice",
        "two of a name",
        "a text in a list",
        "a limit",
        "a text",
        "None",
        "a number",
    ],
)
def test_wrong_limits_are_refused(limits: Any) -> None:
    with pytest.raises(OptionError, match=r"^limits: "):
        Job("work", lambda x: x, limits=limits)


def test_limits_belong_to_the_definition() -> None:
    made = Job("work", lambda x: x, limits=[A, KEY])
    assert made.with_options(priority=1).policy.limits == (A, KEY)
    with pytest.raises(OptionError, match="they belong to the definition"):
        made.with_options(limits=[A])
    with pytest.raises(OptionError, match="names of arguments of 'work'"):
        Node(jobs=Job("work", lambda y: y, limits=[KEY]))

    group = JobGroup("mail.", limits=[A])

    @group.job(kind="send")
    def send() -> None: ...

    assert send.policy.limits == (A,)

    @job(kind="decorated", limits=(KEY,))
    def decorated(x: int) -> int:
        return x

    assert decorated.policy.key_limit is KEY


def test_one_name_has_one_set_of_numbers_and_at_most_fifty_kinds() -> None:
    with pytest.raises(OptionError, match="which has the same name"):
        Node(jobs=[Job("one", str, limits=[A]), Job("two", str, limits=[Limit("a", concurrency=2)])])
    Node(jobs=[Job("one", str, limits=[A]), Job("two", str, limits=[Limit("a", concurrency=1)])])
    kinds = [Job(f"kind{number}", str, limits=[A]) for number in range(50)]
    node = Node(jobs=kinds)
    with pytest.raises(OptionError, match="at most 50 kinds share"):
        node.register(Job("more", str, limits=[A]))


async def test_an_alias_has_the_limits_of_its_job(clock: VirtualClock, inside: Inside) -> None:
    async def work() -> None:
        await inside.run("work", 1)

    async with running_node(Job("new", work, aliases=["old"], limits=[A]), clock=clock) as node:
        await node.schedule_many(Job(kind).call() for kind in ("new", "old", "new", "old"))
        await drain(node)
        assert inside.most["work"] == 1
        assert (await limits_of(node))["a"].kinds == ("new", "old")


async def test_a_kind_is_claimed_only_after_its_limits_are_published(clock: VirtualClock, inside: Inside) -> None:
    async def work() -> None:
        await inside.run("work", 1)

    flaky = flaky_store(clock)
    async with running_node(Job("other", lambda: 1), store=flaky.store, clock=clock) as node:
        fault = flaky.stall("publish_limits")
        late = Job("late", work, limits=[A])
        await node.schedule_many(Job("late").call() for _ in range(5))
        node.register(late)
        await clock.advance(10)
        assert await (await node.schedule("other")).result(5) == 1
        assert inside.most["work"] == 0
        fault.release()
        await clock.advance(0.01)
        assert inside.most["work"] == 1
        await drain(node)
        assert inside.most["work"] == 1
        node.unregister("late")
        node.register(Job("late", work))
        await clock.advance(1)
        assert await limits_of(node) == {}


async def test_limits_that_the_store_did_not_take_are_published_again(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(store=flaky.store, clock=clock, workers=1) as node:
        await clock.advance(10)
        failing = flaky.fail("publish_limits", times=1)
        node.register(Job("late", lambda: 1, limits=[A]))
        assert await (await node.schedule("late")).result(10) == 1
        assert failing.met.is_set()


async def test_a_node_publishes_limits_again_that_the_store_cannot_read(clock: VirtualClock) -> None:
    """A limit that cannot be read lets all pass."""
    flaky = flaky_store(clock)
    async with running_node(Job("work", str, limits=[A]), store=flaky.store, clock=clock) as node:
        await clock.advance(1)
        flaky.calls.clear()
        flaky.change_answers(lambda answer: (answer[0], replace(answer[1], limits_missing=True)), "turn")
        await (await node.schedule("work")).result(5)
        await clock.advance(1)
        assert flaky.calls["publish_limits"] == 1


async def test_a_node_with_limits_does_not_start_beside_a_node_of_an_older_release(clock: VirtualClock) -> None:
    url = shared_url()
    store = memory_store(clock, url)
    await store.open()
    old = NodeInfo(name="old", incarnation=IdSource(clock).one(), kinds=(), workers=1)
    await store.join(old, ttl_us=60_000_000)
    limited = Job("work", str, limits=[A])
    with pytest.raises(LayoutError, match=r"these nodes read only an older layout: old; update peerjob on all nodes"):
        async with running_node(limited, store=url, clock=clock, name="new"):
            pass
    async with running_node(Job("work", str), store=url, clock=clock, name="new") as node:
        with pytest.raises(LayoutError):
            await node.pause_kind("work")
        await store.leave(old.incarnation)
        await node.pause_kind("work")
    await store.close()


async def test_eager_jobs_ignore_limits() -> None:
    async def work(x: int, context: Context = INJECTED) -> int:
        await context.throttle(A, "1h")
        return x

    assert (await eager_async(Job("work", work, limits=[A, KEY]), 7)).result == 7
