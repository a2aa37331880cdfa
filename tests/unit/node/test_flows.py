"""A flow runs each member once, after what it needs, and ends as its members did."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import pytest
from pydantic import SecretStr

from peerjob import (
    INJECTED,
    ArgumentError,
    Context,
    Ended,
    Fail,
    Flow,
    Instance,
    Job,
    JobCancelled,
    JobFailed,
    Node,
    NodeStateError,
    OptionError,
    PayloadTooLargeError,
    Query,
    Secret,
    State,
    job,
)
from peerjob.handles.flow_instance import graph_of
from peerjob.model.durable import FLOW_KIND, MAX_NEEDS_CALL
from peerjob.model.job import Call
from peerjob.model.record import Held, NewChild
from peerjob.node.manager.flow_encoder import FlowEncoder
from peerjob.node.manager.flows import FLOW_JOB
from peerjob.node.work import references
from peerjob.testing import VirtualClock, running_node
from support.factories import durable_store, flaky_store

RUNS: Counter[str] = Counter()


@pytest.fixture
async def node(clock: VirtualClock) -> AsyncIterator[Node]:
    RUNS.clear()
    async with running_node(
        fetch, parse, merge, report, fails, store=durable_store(clock), clock=clock, workers=3
    ) as it:
        yield it


@job(kind="fetch")
async def fetch(url: str) -> bytes:
    RUNS[f"fetch {url}"] += 1
    return url.encode()


@job(kind="parse")
def parse(page: bytes, part: int = 0) -> int:
    RUNS[f"parse {part}"] += 1
    return len(page) + part


@job(kind="merge")
async def merge(parts: list[int]) -> int:
    RUNS["merge"] += 1
    return sum(parts)


@job(kind="report")
async def report(end: Ended[int]) -> str:
    RUNS["report"] += 1
    return f"{end.state}: {end.error or end.result}"


@job(kind="fails")
async def fails(number: int, context: Context = INJECTED) -> int:
    RUNS["fails"] += 1
    raise ValueError(f"bad {number}")


async def test_a_flow_runs_members_after_what_they_need(node: Node) -> None:
    flow = Flow("import")
    page = flow.add(fetch.call("abc"))
    parts = [flow.add(parse.call(page.output, n)) for n in range(3)]
    total = flow.add(merge.call([part.output for part in parts]))
    last = flow.add(report.call(total.ended), optional=True)
    run = await node.schedule_flow(flow, tags=["nightly"])
    assert await run[total].result(10) == 3 * 3 + 3
    assert await run[last].result(10) == "Completed: 12"
    await run.result(10)
    assert run.name == "import"
    assert run.tags == ("nightly",)
    assert RUNS == {"fetch abc": 1, "parse 0": 1, "parse 1": 1, "parse 2": 1, "merge": 1, "report": 1}
    children = await node.lookup_instances(Query(parent=run))
    assert {child.id for child in children} == {run[member].id for member in flow}
    ends = {child.id: child.completed_at for child in children}
    assert all(ends[run[part].id] <= ends[run[total].id] for part in parts)  # type: ignore[operator]


async def test_a_flow_of_nothing_completes_at_once(node: Node) -> None:
    run = await node.schedule_flow(Flow("nothing"))
    await run.result(10)
    assert run.state is State.COMPLETED


async def test_a_failed_member_cancels_what_needs_it_and_fails_the_flow(node: Node) -> None:
    flow = Flow("import")
    bad = flow.add(fails.call(1))
    after = flow.add(parse.call(flow.add(fetch.call("x")).output, 1))
    needs = flow.add(merge.call([bad.output]))
    below = flow.add(fetch.call("y"), after=[needs])
    end = flow.add(report.call(needs.ended))
    run = await node.schedule_flow(flow)
    with pytest.raises(JobFailed, match=r"member 'fails/0' of flow 'import' .* ended Terminated: ValueError: bad 1"):
        await run.result(10)
    assert await run[after].result(10) == 2
    for member in (needs, below):
        with pytest.raises(JobCancelled):
            await run[member].result(10)
    assert (await run[needs].refresh()).record.history[-1].note == f"needs {run[bad].id}, which ended Terminated"
    assert (await run[end].result(10)).startswith("Cancelled")
    assert RUNS["merge"] == 0
    assert RUNS["fetch y"] == 0


async def test_an_optional_member_fails_nothing(node: Node) -> None:
    flow = Flow("import")
    bad = flow.add(fails.call(1), optional=True)
    end = flow.add(report.call(bad.ended))
    after = flow.add(fetch.call("x"), after=[bad], when="ended")
    run = await node.schedule_flow(flow)
    await run.result(10)
    assert await run[end].result(10) == "Terminated: ValueError: bad 1"
    assert await run[after].result(10) == b"x"


async def test_a_member_that_was_stored_in_part_is_completed(clock: VirtualClock) -> None:
    """A member with many needs comes in several calls, and the flow can end between them."""
    store = flaky_store(clock)

    def is_last(incarnation: str, parent: Held, children: Sequence[NewChild]) -> bool:
        return children[-1].instance.kind == merge.kind and not children[-1].more

    flow = Flow("wide")
    parts = [flow.add(parse.call(b"", n)) for n in range(MAX_NEEDS_CALL + 1)]
    total = flow.add(merge.call([part.output for part in parts]))
    fault = store.refuse(ValueError("the node ends"), "spawn", when=is_last, times=1)
    async with running_node(parse, merge, store=store.store, clock=clock, workers=100) as node:
        run = await node.schedule_flow(flow)
        await clock.run(fault.met.wait())
        assert await run[total].result("10m") == sum(range(MAX_NEEDS_CALL + 1))
        await run.result("1m")
    assert store.calls["spawn"] > 2


async def test_a_retry_keeps_what_completed(node: Node) -> None:
    broken = True

    async def flaky(parts: list[int]) -> int:
        RUNS["flaky"] += 1
        if broken:
            raise ValueError("not yet")
        return sum(parts)

    step = Job("flaky", flaky)
    node.register(step)
    flow = Flow("import")
    page = flow.add(fetch.call("abc"))
    part = flow.add(parse.call(page.output, 1))
    total = flow.add(step.call([part.output]))
    seen = flow.add(report.call(total.ended))
    run = await node.schedule_flow(flow)
    with pytest.raises(JobFailed, match="'flaky/2'"):
        await run.result(10)
    assert (await run[seen].result(10)).startswith("Terminated")
    with pytest.raises(JobFailed):
        await (await node.retry_flow(run)).result(10)
    broken = False
    again = await node.retry_flow((await latest(node)).id)
    assert await again[total].result(10) == 4
    await again.result(10)
    assert await again[page].result(10) == b"abc"
    assert again[page].id != run[page].id
    assert await again[seen].result(10) == "Completed: 4"
    assert RUNS == {"fetch abc": 1, "parse 1": 1, "flaky": 3, "report": 3}


async def test_no_view_shows_the_results_that_a_repeated_flow_keeps(node: Node) -> None:
    async def login() -> SecretStr:
        return SecretStr("hunter2")

    async def use(password: SecretStr) -> None:
        raise Fail(f"a password of {len(password.get_secret_value())} characters")

    flow = Flow("import")
    password = flow.add(Job("login", login).call())
    flow.add(Job("use", use).call(password.output))
    run = await node.schedule_flow(flow)
    with pytest.raises(JobFailed, match="7 characters"):
        await run.result(10)
    again = await node.retry_flow(run)
    with pytest.raises(JobFailed, match="7 characters"):
        await again.result(10)
    assert (await node.steps(again))["kept/0"] == [0, "***"]


async def latest(node: Node) -> Instance[Any]:
    return (await node.lookup_instances(Query(kind=FLOW_KIND, order="desc", limit=1)))[0]


async def test_a_retry_needs_a_final_flow(node: Node) -> None:
    other = await node.schedule(fetch, "x")
    with pytest.raises(OptionError, match="instance: expected an instance that runs a flow, not one of kind 'fetch'"):
        await node.retry_flow(other)
    flow = Flow("import")
    flow.add(Job[..., Any, Any]("elsewhere").call())
    run = await node.schedule_flow(flow)
    with pytest.raises(NodeStateError, match="only a final one can be repeated"):
        await node.retry_flow(run.id)


async def test_a_cancelled_flow_cancels_its_members(node: Node) -> None:
    begun = asyncio.Event()

    async def endless(context: Context = INJECTED) -> None:
        begun.set()
        await context.sleep("1d")

    node.register(Job("endless", endless))
    flow = Flow("import")
    first = flow.add(Job[..., Any, Any]("endless").call())
    then = flow.add(fetch.call("x"), after=[first])
    run = await node.schedule_flow(flow)
    await begun.wait()
    assert await run.cancel()
    for member in (first, then):
        with pytest.raises(JobCancelled):
            await run[member].result(10)
    assert RUNS["fetch x"] == 0


async def test_a_member_that_a_user_cancels_leaves_the_others(node: Node, clock: VirtualClock) -> None:
    flow = Flow("import")
    slow = flow.add(Job[..., bytes, Any]("elsewhere").call())
    then = flow.add(parse.call(slow.output))
    run = await node.schedule_flow(flow)
    await clock.advance(1)
    assert (await run.refresh()).waits_for == "its children"
    assert await node.cancel_instance(run[then].id)
    await clock.advance(1)
    assert (await run.refresh()).waits_for == "its children"

    async def late() -> bytes:
        return b"late"

    node.register(Job("elsewhere", late))
    with pytest.raises(JobFailed, match=r"'parse/1' of flow 'import' .* ended Cancelled"):
        await run.result(10)
    assert await run[slow].result(10) == b"late"


async def test_secrets_of_members_are_shown_nowhere(node: Node) -> None:
    async def login(password: Annotated[str, Secret]) -> str:
        return str(len(password))

    node.register(Job("login", login))
    flow = Flow("import")
    member = flow.add(Job("login", login).call("hunter22"))
    run = await node.schedule_flow(flow)
    assert await run[member].result(10) == "8"
    for shown in (run, run[member], await node.lookup_instance(run.id)):
        assert "hunter22" not in repr(shown.to_dict())
    assert run.to_dict()["arguments"] == ["import", {"members": 1, "needs": 0}, "***"]
    assert "hunter22" not in repr(graph_of(run.record))


async def test_a_flow_that_is_too_large_says_what_to_do(node: Node, clock: VirtualClock) -> None:
    flow = Flow("import")
    for _ in range(3):
        flow.add(fetch.call("x" * 400_000))
    text = (
        r"flow 'import' of 3 members \(use context.map in a body.*1,200,\d+ bytes encoded, over the limit of 1,048,576"
    )
    with pytest.raises(PayloadTooLargeError, match=text):
        await node.schedule_flow(flow)
    small = Flow("import")
    small.add(fetch.call("x" * 1_100_000))
    with pytest.raises(PayloadTooLargeError, match="arguments of member 'fetch/0' of flow 'import'"):
        await node.schedule_flow(small)
    assert await node.count() == 0


async def test_a_call_that_does_not_fit_is_refused_by_name_before_anything_is_stored(node: Node) -> None:
    flow = Flow("import")
    flow.add(fetch.call("x"))
    flow.add(Job[..., Any, Any]("parse").call("no bytes", "no number"))
    with pytest.raises(ArgumentError, match="member 'parse/1' of flow 'import': part: "):
        await node.schedule_flow(flow)
    assert await node.count() == 0


async def test_results_over_the_limit_are_refused_with_advice(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_REFERENCES", 10)
    flow = Flow("import")
    pages = [flow.add(fetch.call("x" * 9)) for _ in range(2)]

    async def join(parts: list[bytes]) -> int:
        return len(parts)

    node.register(joined := Job("join", join))
    end = flow.add(joined.call([page.output for page in pages]))
    run = await node.schedule_flow(flow)
    with pytest.raises(JobFailed, match=r"22 bytes of results of other members, over the limit of 10: .* pass names"):
        await run[end].result(10)


async def test_the_limit_counts_kept_results_and_new_ones_together(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_REFERENCES", 10)
    broken = True

    async def flaky() -> bytes:
        if broken:
            raise Fail("broken")
        return b"y" * 6

    async def join(parts: list[bytes]) -> int:
        return len(parts)

    node.register(Job("flaky", flaky))
    node.register(Job("join", join))
    flow = Flow("import")
    kept = flow.add(fetch.call("x" * 6))
    new = flow.add(Job[..., Any, Any]("flaky").call())
    end = flow.add(Job("join", join).call([kept.output, new.output]))
    run = await node.schedule_flow(flow)
    with pytest.raises(JobFailed, match="broken"):
        await run.result(10)
    broken = False
    again = await node.retry_flow(run)
    assert await again[new].result(10) == b"y" * 6
    with pytest.raises(JobFailed, match=r"16 bytes of results of other members, over the limit of 10"):
        await again[end].result(10)
    assert RUNS == {"fetch xxxxxx": 1}


@pytest.mark.parametrize("damaged", ["graph", "arguments"])
async def test_a_flow_that_cannot_be_read_is_not_tried_again(node: Node, damaged: str) -> None:
    flow = Flow("import")
    flow.add(fetch.call("x"))
    graph, arguments = await FlowEncoder(node._call_encoder, flow).encoded()  # pyright: ignore[reportPrivateUsage]
    graph, arguments = (b"\xc1", arguments) if damaged == "graph" else (graph, b"\xc1")
    runtime = node._need_runtime()  # pyright: ignore[reportPrivateUsage]
    call = Call(FLOW_JOB, ("import", graph, arguments), {})
    run = await node._schedule_call(runtime, call, "")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(JobFailed, match="cannot be read"):
        await run.result(100)
    assert (await run.refresh()).attempts == 1


async def test_the_kind_of_flows_belongs_to_no_job_and_no_list(node: Node) -> None:
    with pytest.raises(OptionError, match="schedule_flow"):
        await node.schedule(FLOW_KIND, "n", b"", b"")
    assert FLOW_KIND not in {each.kind for each in await node.registered_jobs()}
    assert FLOW_KIND not in {kind for view in await node.nodes() for kind in view.info.kinds}
    flow = Flow("import")
    flow.add(fetch.call("x"))
    await (await node.schedule_flow(flow)).result(10)
    assert FLOW_KIND not in {each.kind for each in await node.registered_jobs()}


async def test_the_same_id_makes_one_flow(node: Node, clock: VirtualClock) -> None:
    flow = Flow("import")
    member = flow.add(fetch.call("x"))
    id = (await node.schedule(fetch, "id")).id
    with pytest.raises(OptionError, match="an id that no instance of another kind has"):
        await node.schedule_flow(flow, id=id)
    first = await node.schedule_flow(flow)
    await clock.advance(1)
    again = await node.schedule_flow(flow, id=first.id)
    assert again.id == first.id
    assert not again.is_new
    assert await again[member].result(10) == b"x"
    await again.result(10)
    assert RUNS["fetch x"] == 1


async def test_a_member_of_another_flow_is_no_key(node: Node) -> None:
    flow, other = Flow("import"), Flow("other")
    flow.add(fetch.call("x"))
    run = await node.schedule_flow(flow)
    with pytest.raises(OptionError, match="member: expected a member of flow 'import'"):
        run[other.add(fetch.call("x"))]


async def test_a_child_with_references_is_repeated_with_its_flow(node: Node) -> None:
    flow = Flow("import")
    page = flow.add(fetch.call("abc"))
    part = flow.add(parse.call(page.output, 1))
    run = await node.schedule_flow(flow)
    await run.result(10)
    with pytest.raises(NodeStateError, match=f"results of members of flow {run.id}: repeat that with retry_flow"):
        await node.retry_instance(run[part].id)
    made = await node.retry_instances(Query(state=State.COMPLETED))
    assert [one.kind for one in made] == [FLOW_KIND]
