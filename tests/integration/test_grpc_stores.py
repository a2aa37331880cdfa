"""The gRPC service of nodes on each engine: one client, two nodes, one of which goes away."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest
from google.protobuf.message import Message

from peerjob import Client, Job, Node, Query, Server, State
from peerjob.model.ids import IdSource, derived_id
from peerjob.proto.job.v1 import service_pb2 as pb
from support.rpc import raw_client
from support.served_jobs import fail, slow
from support.waiting import PATIENCE


def total(values: list[Decimal], factor: int = 1) -> Decimal:
    return sum(values, Decimal(0)) * factor


pytestmark = pytest.mark.parametrize("store_url", ["redis", "etcd"], indirect=True)
TOTAL, FAIL = Job("total", total), fail.with_options(max_retries=1)
JOBS = (TOTAL, slow, FAIL)


@dataclass
class Site:
    nodes: list[Node]
    servers: list[Server]

    @property
    def target(self) -> str:
        return ",".join(server.target for server in self.servers)


@pytest.fixture
async def site(store_url: str, namespace: str) -> AsyncIterator[Site]:
    nodes = [Node(store_url, jobs=JOBS, workers=3, namespace=namespace, name=name) for name in ("one", "two")]
    servers = [Server(node, "127.0.0.1:0") for node in nodes]
    for node, server in zip(nodes, servers, strict=True):
        await node.start()
        await server.start()
    try:
        yield Site(nodes, servers)
    finally:
        for server in servers:
            await server.stop(grace=0)
        for node in nodes:
            await node.stop(grace=0)


async def test_work_is_scheduled_watched_and_looked_up(site: Site) -> None:
    async with Client(site.target) as client:
        events = list[str]()

        begun = asyncio.Event()

        async def begin() -> None:
            begun.set()

        async def watch() -> None:
            async for event in client.watch(Query(kind="slow"), on_begin=begin):
                events.append(event.what if event.entry is None else str(event.state))
                if event.state is State.COMPLETED and event.entry is not None:
                    return

        watching = asyncio.ensure_future(watch())
        await begun.wait()
        made = await client.schedule(TOTAL, [Decimal("1.5"), Decimal(2)], factor=2)
        assert await made.result(PATIENCE) == Decimal("7.0")
        lines = await client.schedule("slow", 5, "50ms")
        assert await lines.result(PATIENCE) == "done"
        bad = await client.schedule(FAIL, "x")
        await bad.wait(PATIENCE)

        assert [line.message for line in await lines.logs()] == [f"line {number}" for number in range(5)]
        assert [one.id for one in await client.lookup_instances(Query(state=State.TERMINATED))] == [bad.id]
        assert (bad.state, bad.attempts) == (State.TERMINATED, 2)
        counts = (await client.stats()).counts
        assert {kind: states[State.COMPLETED] for kind, states in counts.items() if kind != "fail"} == {
            "total": 1,
            "slow": 1,
        }
        assert {view.name for view in await client.nodes()} == {"one", "two"}
        async with asyncio.timeout(PATIENCE):
            await watching
        assert [what for what in events if what != "log"] == ["Created", "Scheduled", "Processing", "Completed"]
        assert events.count("log") == 5


async def test_a_bulk_with_pages_and_keys(site: Site) -> None:
    async with Client(site.target) as client:
        made = await client.schedule_many(TOTAL.call([Decimal(number)]) for number in range(500))
        await client.wait(timeout=PATIENCE)
        assert await client.count(Query(kind="total", state=State.COMPLETED)) == 500
        assert [one async for one in client.iter_instances(Query(kind="total", limit=70))] == made
        later = FAIL.with_options(key="k", after=600)
        assert [(await client.schedule(later, "x")).is_new for _ in range(2)] == [True, False]
        assert len(await client.cancel_instances(Query(kind="fail"))) == 1
        assert await client.clear_instances() == 501


async def test_schedules_are_those_of_the_cluster(site: Site) -> None:
    async with Client(site.servers[0].target) as one, Client(site.servers[1].target) as other:
        made = await one.add_schedule(TOTAL.with_options(every="1h", name="hourly"), [Decimal(3)])
        await other.pause_schedule("hourly", "maintenance")
        assert (await made.refresh()).note == "maintenance"
        triggered = await other.trigger_schedule("hourly")
        assert triggered is not None
        assert await triggered.result(PATIENCE) == Decimal(3)
        assert [str(fire.outcome) for fire in await one.fires("hourly") if not fire.ongoing] == ["triggered"]
        assert await one.remove_schedule("hourly")
        assert await other.schedules() == []


async def test_a_client_survives_the_node_that_it_talks_to(site: Site) -> None:
    async with Client(site.target) as client:
        made = await client.schedule(slow, 20, timedelta(milliseconds=50))
        waiting = asyncio.ensure_future(made.result(PATIENCE))
        await asyncio.sleep(0.2)
        await site.servers[0].stop(grace=0)
        await site.nodes[0].stop(grace=0)

        assert await waiting == "done"
        assert await client.count(Query(state=State.COMPLETED)) == 1
        assert (await client.version()) != ""


async def test_a_request_that_is_sent_again_to_another_node_is_the_same_instance(site: Site) -> None:
    id = IdSource(site.nodes[0].clock).one()
    request = pb.ScheduleJobRequest(kind="total", arguments=["[]"], uuid=id, options=pb.JobOptions(key="k"))
    for number, server in enumerate((*site.servers, *site.servers)):
        async with raw_client(server.target) as client:
            answer = await client.call("ScheduleJob", request)
            assert (answer.instance.uuid, answer.existed, answer.repeated) == (id, False, number > 0)
            assert (await client.call("WaitInstance", pb.WaitInstanceRequest(uuid=id))).final
    assert await site.nodes[0].count() == 1
    assert [str(entry.state) for entry in await site.nodes[1].lookup_history()].count("Created") == 1


async def test_a_retry_and_a_trigger_that_are_sent_again_to_another_node_act_once(site: Site) -> None:
    node = site.nodes[0]
    await node.add_schedule(TOTAL.with_options(every="1h", name="hourly", overlap="skip"), [])
    old = await (await node.schedule("total", [1])).wait(PATIENCE)
    ids = IdSource(node.clock).take(3)
    answers: list[list[str]] = []
    for server in (*site.servers, *site.servers):
        async with raw_client(server.target) as client:
            retry = await client.call("RetryInstance", pb.RetryInstanceRequest(uuid=old.id, new_uuid=ids[0]))
            many = pb.RetryInstancesRequest(query=pb.Query(uuid=old.id), request_uuid=ids[1])
            (retried,) = (await client.call("RetryInstances", many)).instances
            fired = await client.call("TriggerSchedule", pb.TriggerScheduleRequest(name="hourly", new_uuid=ids[2]))
            answers.append([retry.instance.uuid, retried.uuid, fired.instance.uuid])
            await node.wait(timeout=PATIENCE)
    assert answers == 4 * [[ids[0], derived_id(ids[1], old.id), ids[2]]]
    assert await node.count() == 4
    assert [fire.instance_id for fire in await node.fires("hourly")] == [ids[2]]


async def test_invented_cursors_do_no_harm(site: Site) -> None:
    node = site.nodes[0]
    made = await node.schedule("slow", 3, "0s")
    await made.wait(PATIENCE)
    await node.add_schedule(TOTAL.with_options(every="1h", name="hourly"), [])
    await node.trigger_schedule("hourly")
    proper = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    async with raw_client(site.servers[0].target) as client:
        for cursor in ("", "x", "* *", "-1", "9" * 40, "ü", "\x00", ":", "1:2", "a:b", "1.5", " 1", "[a", "(", "+inf"):
            requests: dict[str, Message] = {
                "LookupInstances": pb.LookupInstancesRequest(query=pb.Query(cursor=cursor, descending=True)),
                "LookupHistory": pb.LookupHistoryRequest(query=pb.Query(cursor=cursor, kind="total")),
                "LookupLogs": pb.LookupLogsRequest(query=pb.Query(cursor=cursor)),
                "ReadLogs": pb.ReadLogsRequest(uuid=made.id, cursor=cursor),
                "ListFires": pb.ListFiresRequest(name="hourly", cursor=cursor),
                "ListSchedules": pb.ListSchedulesRequest(cursor=cursor),
            }
            for name, request in requests.items():
                assert await client.code(name, request) in proper, (name, cursor)


async def test_cursors_that_came_with_a_page_go_on(site: Site) -> None:
    node = site.nodes[0]
    made = await node.schedule("slow", 3, "0s")
    await made.wait(PATIENCE)
    await node.add_schedule(TOTAL.with_options(every="1h", name="hourly"), [])
    for _ in range(3):
        triggered = await node.trigger_schedule("hourly")
        assert triggered is not None
        await triggered.wait(PATIENCE)
    async with Client(site.target) as client:
        pages, cursor = list[int](), None
        while True:
            page = await client.fires("hourly", limit=1, cursor=cursor)
            pages.append(len(page))
            cursor = page.cursor
            if cursor is None:
                break
        assert sum(pages) == 3
    async with raw_client(site.servers[0].target) as raw:
        [data] = [data async for data in raw.stream("ReadLogs", pb.ReadLogsRequest(uuid=made.id))]
        after = pb.ReadLogsRequest(uuid=made.id, cursor=pb.ReadLogsResponse.FromString(data).cursor)
        assert [data async for data in raw.stream("ReadLogs", after)] == []


async def test_requests_of_go_job(site: Site) -> None:
    async with raw_client(site.servers[0].target) as client:
        request = pb.ScheduleJobRequest(kind="total", arguments=['["1", "2"]', "3"])
        made = (await client.call("ScheduleJob", request)).instance
        done = await client.call("WaitInstance", pb.WaitInstanceRequest(uuid=made.uuid))
        assert list(done.instance.results) == ["9"]
        found = (await client.call("LookupInstances", pb.LookupInstancesRequest())).instances
        assert [(one.uuid, one.state, one.attempts) for one in found] == [(made.uuid, pb.JOB_STATE_COMPLETED, 1)]
