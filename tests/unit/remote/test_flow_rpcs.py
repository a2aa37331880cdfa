"""Flows, signals and steps through a client are as on the node."""

from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest

from peerjob import (
    INJECTED,
    ArgumentError,
    AuthError,
    Client,
    Context,
    Ended,
    Flow,
    Node,
    NotRunningError,
    OptionError,
    Query,
    Role,
    Server,
    Signal,
    State,
    Token,
    Tokens,
    UnknownInstanceError,
    job,
)
from peerjob.model.durable import FLOW_KIND
from peerjob.proto.job.v1 import service_pb2 as pb
from support.rpc import raw_client, served
from support.waiting import until

APPROVAL = Signal("approval", bool)


@job(kind="order")
async def order(context: Context = INJECTED) -> str:
    await context.step("charge", lambda: {"paid": 5})
    return "sent" if await context.wait_for(APPROVAL, timeout="3d") else "refunded"


@job(kind="fetch")
async def fetch(url: str) -> bytes:
    return url.encode()


@job(kind="parse")
def parse(page: bytes, part: int = 0) -> int:
    return len(page) + part


@job(kind="report")
async def report(end: Ended[int]) -> str:
    return f"{end.state}: {end.error or end.result}"


@job(kind="system.purge")
async def purge() -> None:
    """Only an admin may schedule it."""


JOBS = (order, fetch, parse, report, purge)
TOKENS = Tokens(
    [
        Token.of("all", Role.OPERATOR, "all"),
        Token.of("some", Role.OPERATOR, "some", kinds=("fetch", "parse")),
        Token.of("one", Role.OPERATOR, "one", kinds=("fetch",)),
        Token.of("reader", Role.READER, "reader"),
        Token.of("admin", Role.ADMIN, "admin"),
        Token.of("flows", Role.OPERATOR, "flows", kinds=("peerjob.flow", "fetch")),
    ]
)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Node, Server]]:
    async with served(*JOBS, tokens=TOKENS) as running:
        yield running


async def test_a_client_gives_a_signal_and_reads_the_steps(pair: tuple[Node, Server]) -> None:
    node, server = pair
    async with Client(server.target, token="all") as client, raw_client(server.target) as raw:
        instance = await client.schedule(order)

        async def waits() -> bool:
            return (await instance.refresh()).waits_for is not None

        await until(waits)
        assert str(instance.waits_for).startswith("signal approval until ")
        assert await client.steps(instance) == await node.steps(instance.id)
        assert (await client.steps(instance))["charge"] == {"paid": 5}
        with pytest.raises(OptionError, match="value: expected a bool for signal 'approval'"):
            await client.signal(instance, APPROVAL, 5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
        request = pb.SignalRequest(uuid=instance.id, name="approval", json_value="true")
        answer = pb.SignalResponse.FromString(await raw.send("Signal", request.SerializeToString(), token="all"))
        assert answer.accepted
        assert not await client.signal(instance, "approval", False)
        assert await instance.result(10) == "sent"
        assert await client.signal(instance, APPROVAL, True)
        with pytest.raises(NotRunningError):
            await client.signal(instance, "other", True)
    async with Client(server.target, token="one") as client:
        with pytest.raises(UnknownInstanceError):
            await client.signal(instance, APPROVAL, True)
    async with Client(server.target, token="reader") as client:
        with pytest.raises(AuthError):
            await client.signal(instance, APPROVAL, True)


def small() -> Flow:
    flow = Flow("import")
    flow.add(fetch.call("private"))
    return flow


async def test_a_client_schedules_a_flow(pair: tuple[Node, Server]) -> None:
    _, server = pair
    flow = Flow("import")
    page = flow.add(fetch.call("abc"))
    part = flow.add(parse.call(page.output, part=1))
    last = flow.add(report.call(part.ended), after=[page], when="ended", optional=True)
    async with Client(server.target, token="all", jobs=JOBS) as client:
        run = await client.schedule_flow(flow, tags=["nightly"])
        assert await run[last].result(10) == "Completed: 4"
        await run.result(10)
        assert run.tags == ("nightly",)
        children = await client.lookup_instances(Query(parent=run))
        assert {child.id for child in children} == {run[member].id for member in flow}
        assert {child.record.parent for child in children} == {run.id}
        again = await client.retry_flow(run)
        assert await again[last].result(10) == "Completed: 4"
        assert not (await client.schedule_flow(flow, id=run.id)).is_new


async def test_any_language_schedules_a_flow_with_json(pair: tuple[Node, Server]) -> None:
    node, server = pair
    request = pb.ScheduleFlowRequest(
        name="import",
        members=[
            pb.FlowMember(call=pb.ScheduleJobRequest(kind="fetch", json_arguments='["abc"]')),
            pb.FlowMember(call=pb.ScheduleJobRequest(kind="parse", json_arguments='[{"$output": 0}, 2]')),
            pb.FlowMember(call=pb.ScheduleJobRequest(kind="report", json_arguments='[{"$ended": 1}]'), after=[0]),
        ],
    )
    async with raw_client(server.target) as raw:
        data = await raw.send("ScheduleFlow", request.SerializeToString(), token="all")
        made = pb.ScheduleFlowResponse.FromString(data)
        assert (made.instance.kind, list(made.unserved)) == (FLOW_KIND, [])
        await (await node.lookup_instance(made.instance.uuid)).result(10)
        results = {child.kind: child.outcome() async for child in node.iter_instances(Query(parent=made.instance.uuid))}
        assert results == {"fetch": b"abc", "parse": 5, "report": "Completed: 5"}


async def test_a_flow_that_does_not_fit_is_refused_by_name(pair: tuple[Node, Server]) -> None:
    node, server = pair
    flow = small()
    flow.add(parse.call(b"x", "no number"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with Client(server.target, token="all") as client:
        with pytest.raises(ArgumentError, match="member 'parse/1' of flow 'import': part"):
            await client.schedule_flow(flow)
        with pytest.raises(OptionError, match="schedule_flow"):
            await client.schedule(FLOW_KIND, "n", b"", b"", allow_unknown=True)
    assert await node.count() == 0


async def test_rights_of_a_flow_are_those_of_its_members(pair: tuple[Node, Server]) -> None:
    node, server = pair
    flow = small()
    flow.add(parse.call(flow.members[0].output))
    async with Client(server.target, token="some") as some, Client(server.target, token="one") as one:
        run = await some.schedule_flow(flow)
        with pytest.raises(AuthError, match="'parse' is not one of fetch"):
            await one.schedule_flow(flow)
        assert [each.id for each in await some.lookup_instances(Query(kind=FLOW_KIND))] == [run.id]
        for refused in (one.lookup_instance(run.id), one.cancel_instance(run.id), one.retry_flow(run.id)):
            with pytest.raises(UnknownInstanceError):
                await refused
        assert not [each for each in await one.lookup_instances() if each.kind == FLOW_KIND]
        await some.cancel_instance(run.id)
    async with Client(server.target, token="reader") as reader:
        with pytest.raises(AuthError):
            await reader.schedule_flow(flow)
        assert (await reader.lookup_instance(run.id)).state in State.FINAL
    await node.audit_trail.flush()
    verbs = {record.verb: record.criteria for record in await node.audit()}
    assert verbs["ScheduleFlow"] == "name=import members=2 kind=fetch,parse"
    assert msgspec.json.encode(verbs).count(b"private") == 0


@pytest.mark.parametrize(
    "query",
    [Query(kind=FLOW_KIND), Query(state=State.COMPLETED), Query(tag="nightly"), Query(kind=FLOW_KIND, tag="nightly")],
    ids=["kind", "state", "tag", "both"],
)
async def test_a_bulk_retry_of_a_flow_needs_the_rights_of_its_members(pair: tuple[Node, Server], query: Query) -> None:
    _, server = pair
    flow = Flow("clean")
    flow.add(fetch.call("abc"))
    flow.add(purge.call())
    async with Client(server.target, token="all") as operator, Client(server.target, token="admin") as admin:
        with pytest.raises(AuthError, match=r"'system\.purge' needs the role admin"):
            await operator.schedule_flow(flow)
        run = await admin.schedule_flow(flow, tags=["nightly"])
        await run.result(10)
        await admin.retry_instances(Query(kind="system.purge"))  # children are not repeated alone
        with pytest.raises(AuthError, match=r"'system\.purge' needs the role admin"):
            await operator.retry_instances(query)
        assert await admin.count(Query(kind=FLOW_KIND)) == 1
        assert [made.kind for made in await admin.retry_instances(query)] == [FLOW_KIND]


async def test_the_kind_of_flows_gives_no_right_to_their_members(pair: tuple[Node, Server]) -> None:
    node, server = pair
    flow = small()
    flow.add(order.call())
    run = await node.schedule_flow(flow)
    async with Client(server.target, token="flows") as client:
        for act in (client.cancel_instances, client.retry_instances, client.wait):
            with pytest.raises(AuthError, match=r"'order' is not one of peerjob\.flow, fetch"):
                await act(Query(kind=FLOW_KIND))
        assert not (await run.refresh()).state.is_final
        own = await client.schedule_flow(small())
        await own.result(10)
        assert [made.kind for made in await client.retry_instances(Query(uuid=own.id))] == [FLOW_KIND]


async def test_a_request_with_too_many_members_is_refused_before_kinds_are_read(
    pair: tuple[Node, Server],
) -> None:
    _, server = pair
    request = pb.ScheduleFlowRequest(
        name="import", members=[pb.FlowMember(call=pb.ScheduleJobRequest(kind=f"k{n}")) for n in range(10_001)]
    )
    async with raw_client(server.target) as raw:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw.send("ScheduleFlow", request.SerializeToString(), token="all")
    assert "members: expected at most 10,000" in str(refused.value.details())
