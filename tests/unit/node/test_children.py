"""Children: instances that a body starts, and whose ends it waits for without a worker."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    BlockingContext,
    Call,
    ChildFailed,
    Context,
    Ended,
    ErrorInfo,
    Instance,
    Job,
    Node,
    NodeStateError,
    OptionError,
    Query,
    Signal,
    State,
    StepNameError,
    UnknownKindError,
)
from peerjob.handles.observing import observe
from peerjob.handles.reasons import why_instance
from peerjob.model.clock import to_datetime
from peerjob.model.durable import MAX_CHILDREN_CALL, MAX_NEEDS_CALL, Need
from peerjob.model.ids import IdSource
from peerjob.model.record import (
    MAX_BATCH_BYTES,
    Ack,
    Claimed,
    Enqueued,
    Held,
    NewChild,
    NewInstance,
    Outcome,
    Record,
    Want,
)
from peerjob.node.work.child_pages import in_claim_order, pages_of
from peerjob.node.work.durable_run import FIRST_READ
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store, memory_store, notes_of, shared_url

RUNS = Counter[str]()


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


async def double(number: int, seconds: float = 0) -> int:
    RUNS["double"] += 1
    await asyncio.sleep(seconds)
    return 2 * number


async def fail(text: str) -> int:
    RUNS["fail"] += 1
    raise ValueError(text)


async def hang() -> None:
    RUNS["hang"] += 1
    await asyncio.Event().wait()


DOUBLE = Job("double", double)
FAIL = Job("fail", fail)
HANG = Job("hang", hang)


@pytest.fixture
async def node(clock: VirtualClock) -> AsyncIterator[Node]:
    async with running_node(DOUBLE, FAIL, HANG, store=memory_store(clock), clock=clock, workers=3) as running:
        yield running


async def begun(node: Node, body: Any, *args: Any, **options: Any) -> Instance[Any]:
    """An instance of a job with this body, that has run for a second."""
    job = Job("parent", body, **options)
    node.register(job)
    instance = await node.schedule(job, *args)
    await node.clock.advance(1)  # type: ignore[attr-defined]
    return await instance.refresh()


async def result(node: Node, body: Any, *args: Any, **options: Any) -> Any:
    return await (await begun(node, body, *args, **options)).result("10m")


async def children_of(node: Node, parent: Instance[Any]) -> list[Instance[Any]]:
    return list(await node.lookup_instances(Query(parent=parent)))


async def test_a_call_is_a_child(node: Node) -> None:
    async def body(context: Context = INJECTED) -> int:
        RUNS["body"] += 1
        return await context.call("double", DOUBLE.call(4, seconds=30)) + 1

    instance = await begun(node, body)
    assert instance.state is State.SCHEDULED
    (child,) = await children_of(node, instance)
    assert child.record.parent == instance.id
    assert [worker.instance for worker in node.workers() if worker.instance] == [child.id]
    assert await instance.result("1m") == 9
    assert RUNS == {"double": 1, "body": 2}
    assert instance.attempts == 1
    assert (await notes_of(instance))[3] == "Scheduled: suspended"


async def test_a_map_runs_its_children_at_the_same_time(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> list[int]:
        RUNS["body"] += 1
        return await context.map("all", (DOUBLE.call(n, seconds=10) for n in range(7)))

    before = clock.elapsed()
    assert await result(node, body) == [0, 2, 4, 6, 8, 10, 12]
    assert clock.elapsed() - before < 35, "three workers, seven children of 10 s"
    assert RUNS == {"double": 7, "body": 2}


async def test_a_wait_for_many_children_reads_few_of_them_until_they_are_over(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memory_store(clock)
    get, reads = store.get, list[int]()

    async def counted(ids: Sequence[str]) -> list[Record | None]:
        reads.append(len(ids))
        return await get(ids)

    monkeypatch.setattr(store, "get", counted)

    async def body(context: Context = INJECTED) -> list[int]:
        return await context.map("all", (DOUBLE.call(n, seconds=10) for n in range(3 * FIRST_READ)))

    async with running_node(DOUBLE, store=store, clock=clock, workers=100) as node:
        instance = await begun(node, body)
        assert max(reads) == FIRST_READ
        assert await instance.result("10m") == [2 * n for n in range(3 * FIRST_READ)]
        assert max(reads) == 3 * FIRST_READ


async def test_a_body_holds_no_calls_of_children_while_the_store_is_asked(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object for each of many children would let Python's collector go through all objects of the process."""
    store = memory_store(clock)
    get, spawn, held = store.get, store.spawn, list[int]()

    def count_calls() -> None:
        held.append(sum(type(each) is Call for each in gc.get_objects()))

    async def seen_get(ids: Sequence[str]) -> list[Record | None]:
        count_calls()
        return await get(ids)

    async def seen_spawn(incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        count_calls()
        return await spawn(incarnation, parent, children)

    monkeypatch.setattr(store, "get", seen_get)
    monkeypatch.setattr(store, "spawn", seen_spawn)

    async def body(context: Context = INJECTED) -> list[int]:
        calls = (DOUBLE.call(number=n) if n % 2 else DOUBLE.call(n) for n in range(50))
        return await context.map("all", calls)

    before = sum(type(each) is Call for each in gc.get_objects())
    async with running_node(DOUBLE, store=store, clock=clock, workers=50) as node:
        instance = await begun(node, body)
        assert await instance.result("10m") == [2 * n for n in range(50)]
    assert len(held) > 2
    assert max(held) < before + 10


async def test_many_children_come_to_the_store_in_the_order_in_which_nodes_claim_them(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memory_store(clock)
    spawn, get, turn, commit = store.spawn, store.get, store.turn, store.commit
    made, read, needed = list[str](), list[str](), list[str]()

    async def seen_spawn(incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        made.extend(child.instance.id for child in children)
        return await spawn(incarnation, parent, children)

    async def seen_get(ids: Sequence[str]) -> list[Record | None]:
        read.extend(ids)
        return await get(ids)

    def see_needs(outcomes: Sequence[Outcome]) -> None:
        needed.extend(need.id for outcome in outcomes for need in outcome.needs)

    async def seen_turn(
        incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        see_needs(outcomes)
        return await turn(incarnation, outcomes, want, request=request)

    async def seen_commit(incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        see_needs(outcomes)
        return await commit(incarnation, outcomes, request=request)

    seen = {"spawn": seen_spawn, "get": seen_get, "turn": seen_turn, "commit": seen_commit}
    for name, verb in seen.items():
        monkeypatch.setattr(store, name, verb)
    count = MAX_CHILDREN_CALL + 50

    async def body(context: Context = INJECTED) -> list[int]:
        read.clear()
        return await context.map("all", (DOUBLE.call(n, seconds=10) for n in range(count)))

    async with running_node(DOUBLE, store=store, clock=clock, workers=count) as node:
        instance = await begun(node, body)
        assert len(made) == count
        assert made == sorted(made)
        assert needed == made
        assert await instance.result("10m") == [2 * n for n in range(count)], (
            "the results are in the order of the calls"
        )
        assert read[:count] == made


async def test_a_sync_body_has_children_too(node: Node) -> None:
    def body(context: BlockingContext = INJECTED) -> list[Any]:
        first = context.start("first", DOUBLE.call(1))
        second = context.start("second", FAIL.call("no"))
        ended = second.ended()
        mapped = context.map("more", [DOUBLE.call(2), DOUBLE.call(3)])
        return [context.gather(first), first.result(), ended.state, mapped, context.call("last", DOUBLE.call(5))]

    assert await result(node, body) == [(2,), 2, State.TERMINATED, [4, 6], 10]
    assert RUNS == {"double": 4, "fail": 1}


async def test_a_started_child_runs_while_the_body_goes_on(node: Node) -> None:
    async def body(context: Context = INJECTED) -> list[int]:
        RUNS["body"] += 1
        first = await context.start("first", DOUBLE.call(1))
        second = await context.start("second", DOUBLE.call(2))
        await asyncio.sleep(5)
        a, b = await context.gather(first, second)
        return [a, b, await first]

    assert await result(node, body) == [2, 4, 2]
    assert RUNS == {"double": 2, "body": 1}, "the children are over, so the body waits for nothing"


async def test_nothing_to_wait_for_is_no_wait(node: Node) -> None:
    async def body(context: Context = INJECTED) -> list[Any]:
        RUNS["body"] += 1
        return [await context.map("none", list[Call[int]]()), await context.gather()]

    assert await result(node, body) == [[], ()]
    assert RUNS == {"body": 1}


async def test_a_failed_child_is_an_error_when_all_are_over(node: Node, clock: VirtualClock) -> None:
    errors: list[ChildFailed] = []

    async def body(context: Context = INJECTED) -> None:
        slow = await context.start("slow", DOUBLE.call(1, seconds=60))
        bad = await context.start("bad", FAIL.call("no paper"))
        try:
            await context.gather(bad, slow)
        except ChildFailed as error:
            errors.append(error)
            raise

    before = clock.elapsed()
    instance = await begun(node, body)
    await instance.wait("2m")
    assert instance.state is State.TERMINATED
    assert clock.elapsed() - before >= 60, "the slow child is awaited, too"
    (error,) = errors
    assert (error.child, error.type, error.message) == ("bad", "ValueError", "no paper")
    assert str(error) == f"child 'bad' ({error.uuid}) ended Terminated: ValueError: no paper"


async def test_an_end_can_be_a_value(node: Node) -> None:
    ends: list[Ended[Any]] = []

    async def body(context: Context = INJECTED) -> None:
        good = await context.start("good", DOUBLE.call(3))
        bad = await context.start("bad", FAIL.call("no"))
        ends[:] = [await good.ended(), await bad.ended()]

    await result(node, body)
    good, bad = ends
    assert good == Ended(state=State.COMPLETED, result=6)
    assert (bad.state, bad.result, bad.completed) == (State.TERMINATED, None, False)
    assert isinstance(bad.error, ErrorInfo)


async def test_a_cancelled_child_is_over_when_its_body_has_ended(node: Node, clock: VirtualClock) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(20)
            RUNS["ended"] += 1

    slow = Job("stubborn", stubborn)
    node.register(slow)

    async def body(context: Context = INJECTED) -> tuple[Any, int]:
        child = await context.start("child", slow.call())
        await asyncio.sleep(3)
        return (await child.ended()).state, RUNS["ended"]

    instance = await begun(node, body)
    (child,) = await children_of(node, instance)
    assert await child.cancel()  # while the body of the parent runs
    await clock.advance(5)
    assert (await instance.refresh()).state is State.SCHEDULED
    assert await instance.result("1m") == (State.CANCELLED, 1)


async def test_a_wait_for_cancelled_children_ends(node: Node, clock: VirtualClock) -> None:
    """Those that ran when they were cancelled need a second look, those that did not need none."""

    async def body(context: Context = INJECTED) -> list[State]:
        RUNS["body"] += 1
        ran = [await context.start(f"ran {n}", HANG.call()) for n in range(2)]
        waited = await context.start("waited", DOUBLE.with_options(priority=9).call(1))
        gone = [await child.ended() for child in ran]
        return [end.state for end in (*gone, await waited.ended())]

    node.register(Job("block", asyncio.Event().wait))
    await node.schedule("block")
    instance = await begun(node, body)
    for child in await children_of(node, instance):
        assert await child.cancel()
    assert await instance.result("1m") == [State.CANCELLED] * 3
    assert RUNS["body"] <= 4


async def test_a_retry_of_the_body_finds_its_children(node: Node) -> None:
    async def body(context: Context = INJECTED) -> int:
        first = await context.call("first", DOUBLE.call(1))
        second = await context.start("second", DOUBLE.call(first))
        if context.attempt == 1:
            raise ValueError("after the start")
        return await second

    instance = await begun(node, body, max_retries=1)
    assert await instance.result("1m") == 4
    assert RUNS == {"double": 2}
    assert len(await children_of(node, instance)) == 2


@pytest.mark.parametrize("times", [1, 2])
async def test_processors_hear_of_a_child_once(clock: VirtualClock, times: int) -> None:
    """A driver can ask twice for children after an answer was lost."""
    store, seen = flaky_store(clock), list[State]()
    if times == 2:
        store.repeat("spawn")

    async def body(context: Context = INJECTED) -> int:
        child = await context.start("child", job.call(1))
        return await child

    def on_state_change(instance: Instance[Any], state: State) -> None:
        seen.append(state)

    job = Job("child", double, on_state_change=on_state_change)
    async with running_node(job, store=store.store, clock=clock, workers=1) as node:
        assert await result(node, body) == 2
        await clock.advance(1)
    assert seen.count(State.CREATED) == (times == 1)


async def test_a_retry_of_the_body_starts_the_children_that_are_missing(node: Node) -> None:
    async def body(context: Context = INJECTED) -> list[int]:
        if context.attempt == 1:
            await context.start("all/1", DOUBLE.call(number=1))
            raise ValueError("after the start")
        return await context.map("all", [DOUBLE.call(0), DOUBLE.call(1), DOUBLE.call(2), DOUBLE.call(number=3)])

    instance = await begun(node, body, max_retries=1)
    assert await instance.result("1m") == [0, 2, 4, 6]
    assert RUNS == {"double": 4}


@pytest.mark.parametrize("ending", ["cancel", "fail", "complete"])
async def test_the_end_of_the_parent_cancels_what_is_left(node: Node, clock: VirtualClock, ending: str) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.start("hang", HANG.call())
        await context.start("late", DOUBLE.call(1, seconds=3_600))
        if ending == "fail":
            raise ValueError("no more")
        if ending == "cancel":
            await context.suspend("wait", "1h")

    instance = await begun(node, body)
    if ending == "cancel":
        assert await instance.cancel()
    await clock.advance(5)
    children = await children_of(node, instance)
    assert [child.state for child in children] == [State.CANCELLED, State.CANCELLED]
    assert (await notes_of(children[0]))[-1] == "Cancelled: its parent ended"
    assert not any(worker.instance for worker in node.workers())


async def test_a_parent_of_many_children_cancels_all_of_them(clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.map("all", (HANG.call() for _ in range(450)))

    async with running_node(HANG, store=memory_store(clock), clock=clock, workers=2) as node:
        instance = await begun(node, body)
        assert await node.count(Query(parent=instance)) == 450
        await instance.cancel()
        await clock.advance(10)
        assert await node.count(Query(parent=instance, state=State.CANCELLED)) == 450


async def test_a_peer_settles_for_a_node_that_is_gone(clock: VirtualClock) -> None:
    url = shared_url()

    async def body(context: Context = INJECTED) -> None:
        await context.map("all", (HANG.call() for _ in range(250)))

    async with running_node(store=memory_store(clock, url), clock=clock, workers=0) as peer:
        store = memory_store(clock, url)
        async with running_node(HANG, store=store, clock=clock, workers=1, name="first") as node:
            instance = await begun(node, body)
        await store.open()
        await store.cancel([instance.id], request="r")  # by a program that then ends
        await clock.advance(10)
        assert await peer.count(Query(parent=instance.id, state=State.CANCELLED)) == 250


async def test_children_and_steps_share_their_names(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.step("a", str)
        with pytest.raises(StepNameError):
            await context.start("a", DOUBLE.call(1))
        await context.start("b/1", DOUBLE.call(1))
        with pytest.raises(StepNameError):
            await context.map("b", [DOUBLE.call(1), DOUBLE.call(2)])

    await result(node, body)


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (DOUBLE.with_options(key="k").call(1), "key"),
        (DOUBLE.with_options(after="1h").call(1), "after"),
        (DOUBLE.with_options(at="2040-01-01T00:00:00Z").call(1), "at"),
    ],
)
async def test_an_option_that_a_child_cannot_have_is_refused(node: Node, call: Call[int], option: str) -> None:
    async def body(context: Context = INJECTED) -> None:
        with pytest.raises(OptionError, match=f"^{option}: expected none for child 'x'"):
            await context.start("x", call)

    instance = await begun(node, body)
    assert instance.state is State.COMPLETED, instance.error
    assert await children_of(node, instance) == []


async def test_values_that_are_no_calls_and_no_children_are_refused(node: Node) -> None:
    wrong: Any = DOUBLE

    async def body(context: Context = INJECTED) -> None:
        with pytest.raises(OptionError, match="call: expected a call, such as"):
            await context.start("x", wrong)
        with pytest.raises(OptionError, match="calls: expected calls, such as"):
            await context.map("x", wrong.call(1))
        with pytest.raises(OptionError, match="call: expected a call, such as"):
            await context.map("x", [wrong])
        with pytest.raises(OptionError, match="children: expected a Child"):
            await context.gather(wrong)
        with pytest.raises(OptionError, match="function: expected a function"):
            await context.step("x", wrong.call(1))

    instance = await begun(node, body)
    assert instance.state is State.COMPLETED, instance.error
    assert await children_of(node, instance) == []


async def test_a_bad_call_starts_none_of_a_map(node: Node) -> None:
    wrong: Any = "seven"

    async def body(context: Context = INJECTED) -> None:
        await context.map("x", [DOUBLE.call(1), DOUBLE.call(wrong)])

    instance = await begun(node, body)
    assert instance.state is State.TERMINATED
    assert await children_of(node, instance) == []


async def test_a_wait_for_a_child_in_a_step_is_refused(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        child = await context.start("child", HANG.call())

        async def inner() -> None:
            await child

        with pytest.raises(NodeStateError, match="only the body itself can wait"):
            await context.step("step", inner)

    assert (await begun(node, body)).state is State.COMPLETED


async def test_a_child_can_have_steps_waits_and_children(node: Node) -> None:
    go = Signal("go", int)

    async def inner(number: int, context: Context = INJECTED) -> int:
        RUNS["inner"] += 1
        kept = await context.step("kept", double, number)
        return kept + await context.wait_for(go) + await context.call("leaf", DOUBLE.call(number))

    nested = Job("nested", inner)
    node.register(nested)

    async def body(context: Context = INJECTED) -> int:
        return await context.call("nested", nested.call(3))

    instance = await begun(node, body)
    (child,) = await children_of(node, instance)
    assert await node.signal(child, go, 100)
    assert await instance.result("1m") == 112
    assert RUNS == {"inner": 3, "double": 2}


async def test_why_counts_the_children_that_are_left(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.map("all", [DOUBLE.call(1), HANG.call(), HANG.call()])

    instance = await begun(node, body)
    assert instance.waits_for == "its children"
    (reason, count, *_) = why_instance(await observe(node, instance, to_datetime(clock.time_us())))
    assert reason == "it is suspended: it waits for its children"
    assert count.startswith("2 of its 3 children are not over")


async def test_a_child_is_held_until_its_parent_ends(node: Node, clock: VirtualClock) -> None:
    async def body(context: Context = INJECTED) -> int:
        number = await context.call("short", DOUBLE.with_options(retention=0).call(1))
        await context.suspend("wait", "5m")
        return number + await context.call("short again", DOUBLE.call(number))

    instance = await begun(node, body)
    await clock.advance("4m")
    assert [child.state for child in await children_of(node, instance)] == [State.COMPLETED]
    assert await instance.result("10m") == 6
    assert RUNS == {"double": 2}


async def test_children_of_a_wait_that_was_cancelled_do_not_hold_the_next_wait(node: Node) -> None:
    async def body(context: Context = INJECTED) -> int:
        slow = await asyncio.gather(*(context.start(f"slow/{n}", HANG.call()) for n in range(MAX_NEEDS_CALL + 1)))
        waits = [asyncio.ensure_future(context.suspend("time", 1)), asyncio.ensure_future(context.gather(*slow))]
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        waits[0].result()
        for task in pending:
            task.cancel()
        return await context.call("quick", DOUBLE.call(4))

    await node.pause_kind("hang")
    instance = await begun(node, body)
    assert await instance.result(10) == 8


async def test_a_body_waits_for_more_children_than_one_call_takes(node: Node) -> None:
    async def body(context: Context = INJECTED) -> int:
        return sum(await context.map("double", (DOUBLE.call(n) for n in range(MAX_NEEDS_CALL + 1))))

    instance = await begun(node, body)
    assert await instance.result(10) == MAX_NEEDS_CALL * (MAX_NEEDS_CALL + 1)
    assert len(await instance.history()) == 6, "Created, Scheduled, Processing, Scheduled, Processing, Completed"


async def test_an_unknown_kind_waits_for_a_node(node: Node) -> None:
    async def body(context: Context = INJECTED) -> None:
        await context.call("elsewhere", Job[..., Any, Any]("elsewhere").call(1))

    instance = await begun(node, body)
    (child,) = await children_of(node, instance)
    assert (child.kind, child.state) == ("elsewhere", State.SCHEDULED)
    with pytest.raises(UnknownKindError):
        await node.schedule("never")
    await instance.cancel()
    await drain(node)


def test_children_come_to_the_store_after_what_they_need() -> None:
    ids = IdSource(VirtualClock()).take(9)

    def child(number: int, *needs: int) -> NewChild:
        instance = NewInstance(id=ids[number], kind="k", spec=b"")
        return NewChild(instance=instance, needs=tuple(Need(ids[need]) for need in needs))

    given = [child(8, 7), child(6), child(4, 6), child(5), child(0, 4, 6), child(3, 5), child(1)]
    expected = [child(1), child(5), child(6), child(8, 7), child(3, 5), child(4, 6), child(0, 4, 6)]
    assert in_claim_order(given) == expected


def test_pages_keep_the_limits_of_a_call() -> None:
    ids = IdSource(VirtualClock())

    def child(size: int = 10, needs: int = 0) -> NewChild:
        instance = NewInstance(id=ids.one(), kind="k", spec=b"x" * size)
        return NewChild(instance=instance, needs=tuple(Need(id) for id in ids.take(needs)))

    assert [len(page) for page in pages_of([child() for _ in range(450)])] == [200, 200, 50]
    assert [len(page) for page in pages_of([child(MAX_BATCH_BYTES // 2 - 1) for _ in range(5)])] == [2, 2, 1]
    assert [len(page) for page in pages_of([child(MAX_BATCH_BYTES + 1) for _ in range(2)])] == [1, 1]
    assert [len(page) for page in pages_of([child(needs=200) for _ in range(5)])] == [2, 2, 1]
    many = child(needs=2 * MAX_NEEDS_CALL + 7)
    pages = list(pages_of([child(), many, child()]))
    assert [[(len(part.needs), part.more) for part in page] for page in pages] == [
        [(0, False), (500, True)],
        [(500, True)],
        [(7, False), (0, False)],
    ]
    assert tuple(need for page in pages for part in page for need in part.needs) == many.needs
