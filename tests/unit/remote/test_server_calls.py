"""The gRPC service, as clients of go-job and of other languages use it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from peerjob import INJECTED, Instance, Job, Node, Query, ResultPage, State, __version__
from peerjob.model.errors import OptionError
from peerjob.model.ids import IdSource
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server import grpc_server
from peerjob.remote.server.health import NAMES, PROBES, HealthReporter
from peerjob.remote.server.pages import FIRST_STEP, MAX_BYTES, messages_that_fit, page_that_fits
from peerjob.remote.server.server import Server
from peerjob.remote.wire.instances import instance_message
from peerjob.remote.wire.rpcs import SERVICE
from peerjob.remote.wire.values import moment_stamp, span
from support.rpc import RawClient, health_client, open_calls, raw_client, served
from support.rubbish import rubbish
from support.waiting import until

Code = grpc.StatusCode
PROPER = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED}


def add(x: int, y: int) -> int:
    return x + y


def spans(text: str, wait: timedelta, parts: tuple[str, ...] = ()) -> tuple[str, float, int]:
    return text, wait.total_seconds(), len(parts)


def fail(reason: str) -> None:
    raise ValueError(reason)


async def hang() -> None:
    await asyncio.Event().wait()


def talk(lines: int, instance: Instance[Any] = INJECTED) -> None:
    for number in range(lines):
        instance.log.info("line %d", number)


LEAP_DAY = "0 3 29 2 *"
"""No test is under way just then."""
JOBS = (
    Job("sum", add, description="Adds"),
    Job("leap", hang, cron=LEAP_DAY, timezone="Europe/Berlin"),
    Job("span", spans, priority=7, max_retries=None, timeout=5, tags=["blue"]),
    Job("fail", fail),
    Job("hang", hang),
    Job("talk", talk),
)


@pytest.fixture
async def site() -> AsyncIterator[tuple[Node, Server]]:
    async with served(*JOBS) as both:
        yield both


@pytest.fixture
def node(site: tuple[Node, Server]) -> Node:
    return site[0]


@pytest.fixture
async def client(site: tuple[Node, Server]) -> AsyncIterator[RawClient]:
    async with raw_client(site[1].target) as found:
        yield found


async def final(client: RawClient, uuid: str) -> pb.JobInstance:
    answer: pb.WaitInstanceResponse = await client.call("WaitInstance", pb.WaitInstanceRequest(uuid=uuid))
    assert answer.final
    return answer.instance


# -- what go-job has ---------------------------------------------------------------------------------------------------


async def test_the_version(client: RawClient) -> None:
    answer = await client.call("GetVersion", pb.VersionRequest())

    assert (answer.version, answer.api_version) == (__version__, "v1")


async def test_registered_jobs(client: RawClient) -> None:
    answer = await client.call("ListRegisteredJobs", pb.ListRegisteredJobsRequest())

    jobs = {job.kind: job for job in answer.jobs}
    assert sorted(jobs) == ["fail", "hang", "leap", "span", "sum", "talk"]
    assert jobs["sum"].description == "Adds"
    assert jobs["leap"].cron_spec == LEAP_DAY
    assert not jobs["fail"].HasField("cron_spec")
    assert abs(jobs["sum"].registered_at.seconds - time.time()) < 120
    assert (jobs["span"].priority, jobs["span"].max_retries, list(jobs["span"].tags)) == (7, -1, ["blue"])
    assert jobs["span"].timeout.seconds == 5


async def test_a_job_of_text_arguments(client: RawClient) -> None:
    request = pb.ScheduleJobRequest(kind="sum", arguments=["42", "58"], priority=3)
    instance = (await client.call("ScheduleJob", request)).instance

    assert instance.kind == "sum"
    assert instance.state == pb.JOB_STATE_SCHEDULED
    assert instance.priority == 3
    done = await final(client, instance.uuid)
    assert list(done.arguments) == ["42", "58"]
    assert list(done.results) == ["100"]
    assert done.attempts == 1
    assert not done.HasField("error")
    times = [done.created_at, done.scheduled_at, done.processed_at, done.completed_at]
    assert [one.ToMicroseconds() for one in times] == sorted(one.ToMicroseconds() for one in times)
    assert not any(done.HasField(name) for name in ("terminated_at", "canceled_at", "timed_out_at"))


@pytest.mark.parametrize("field", ["json_arguments", "json_keyword_arguments"])
@pytest.mark.parametrize("text", ['["hunter2", ', '{"password": "hunter2"]', '"hunter2"', "hunter2"])
async def test_arguments_that_cannot_be_read_are_not_repeated(client: RawClient, field: str, text: str) -> None:
    request = pb.ScheduleJobRequest(kind="sum", **cast(Any, {field: text}))
    with pytest.raises(grpc.aio.AioRpcError, match=f"{len(text)} characters") as refused:
        await client.call("ScheduleJob", request)

    assert refused.value.code() is Code.INVALID_ARGUMENT
    assert field in str(refused.value.details())
    for told in (refused.value.details(), refused.value.trailing_metadata()):
        assert "hunter2" not in str(told)


async def test_a_job_that_fails_tells_its_error(client: RawClient) -> None:
    request = pb.ScheduleJobRequest(kind="fail", arguments=["no reason"])
    done = await final(client, (await client.call("ScheduleJob", request)).instance.uuid)

    assert done.state == pb.JOB_STATE_TERMINATED
    assert done.error == "ValueError: no reason"
    assert (done.failure.type, done.failure.message) == ("ValueError", "no reason")
    assert done.HasField("terminated_at")
    assert not done.HasField("completed_at")
    assert list(done.results) == []


async def test_a_lookup_without_a_query_finds_everything(client: RawClient, node: Node) -> None:
    made = [await node.schedule("sum", number, 1) for number in range(120)]

    answer = await client.call("LookupInstances", pb.LookupInstancesRequest())

    assert [one.uuid for one in answer.instances] == [one.id for one in made]
    assert not answer.HasField("cursor")


async def test_a_lookup_by_kind_state_and_id(client: RawClient, node: Node) -> None:
    good, bad = await node.schedule("sum", 1, 2), await node.schedule("fail", "x")
    await node.wait()

    async def found(query: pb.Query) -> list[str]:
        answer = await client.call("LookupInstances", pb.LookupInstancesRequest(query=query))
        return [one.uuid for one in answer.instances]

    assert await found(pb.Query(kind="sum")) == [good.id]
    assert await found(pb.Query(uuid=bad.id)) == [bad.id]
    assert await found(pb.Query(state=pb.JOB_STATE_TERMINATED)) == [bad.id]
    assert await found(pb.Query(kind="sum", state=pb.JOB_STATE_TERMINATED)) == []
    assert await found(pb.Query(state=cast(Any, 32 | 64))) == [good.id, bad.id]
    assert await found(pb.Query(state=pb.JOB_STATE_UNSET)) == [good.id, bad.id]


@pytest.mark.parametrize("query", [None, pb.Query(), pb.Query(state=pb.JOB_STATE_UNSET), pb.Query(level=1)], ids=str)
async def test_a_cancel_that_names_nothing_is_refused(client: RawClient, node: Node, query: pb.Query | None) -> None:
    one = await node.schedule("hang")

    assert await client.code("CancelInstances", pb.CancelInstancesRequest(query=query)) is Code.INVALID_ARGUMENT
    assert await client.code("RetryInstances", pb.RetryInstancesRequest(query=query)) is Code.INVALID_ARGUMENT
    assert not (await one.refresh()).state.is_final


async def test_a_cancel_touches_what_it_names(client: RawClient, node: Node) -> None:
    hanging, late = await node.schedule("hang"), await node.schedule(JOBS[0].with_options(after=60), 1, 2)

    answer = await client.call("CancelInstances", pb.CancelInstancesRequest(query=pb.Query(kind="hang")))
    assert [(one.uuid, one.state) for one in answer.instances] == [(hanging.id, pb.JOB_STATE_CANCELLED)]
    assert answer.instances[0].HasField("canceled_at")
    answer = await client.call("CancelInstances", pb.CancelInstancesRequest(query=pb.Query(all=True)))
    assert [one.uuid for one in answer.instances] == [late.id]


# -- what is new -------------------------------------------------------------------------------------------------------


async def test_json_arguments_by_position_and_by_name(client: RawClient) -> None:
    request = pb.ScheduleJobRequest(
        kind="span", json_arguments='["ü", "1h30m"]', json_keyword_arguments='{"parts": ["a", "b"]}'
    )
    done = await final(client, (await client.call("ScheduleJob", request)).instance.uuid)

    assert list(done.results) == ["ü", "5400.0", "2"]
    assert list(done.arguments) == ["ü", "1h30m", '["a","b"]']


def sum_request(**options: Any) -> pb.ScheduleJobRequest:
    return pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"], options=pb.JobOptions(**options))


REFUSED: dict[str, pb.ScheduleJobRequest] = {
    "too few": pb.ScheduleJobRequest(kind="sum"),
    "no number": pb.ScheduleJobRequest(kind="sum", arguments=["1", "two"]),
    "two forms": pb.ScheduleJobRequest(kind="sum", arguments=["1"], json_arguments="[1, 2]"),
    "no array": pb.ScheduleJobRequest(kind="sum", json_arguments="{}"),
    "no object": pb.ScheduleJobRequest(kind="sum", json_keyword_arguments="[]"),
    "too deep": pb.ScheduleJobRequest(kind="sum", json_arguments="[" * 100_000),
    "no MessagePack": pb.ScheduleJobRequest(kind="sum", encoded_arguments=b"\xc1"),
    "misshapen": pb.ScheduleJobRequest(kind="sum", encoded_arguments=b"\x92\x01\x02"),
    "no kind": pb.ScheduleJobRequest(allow_unknown=True),
    "a recurrence": sum_request(cron="* * * * *"),
    "nowhere to run": sum_request(run_in="nowhere"),
    "retries": sum_request(max_retries=-2),
    "a negative delay": sum_request(after=Duration(seconds=-1)),
    "no such year": sum_request(at=Timestamp(seconds=1 << 60)),
    "no id": pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"], uuid="x"),
    "an id of another kind": pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"], uuid=str(uuid4())),
    "an old id": pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"], uuid="01900000-0000-7000-8000-000000000000"),
    "an import": sum_request(retry_on=pb.Labels(values=["os.system"])),
    "no class": sum_request(retry_on=pb.Labels(values=["print"])),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_scheduled_is_refused(client: RawClient, node: Node, case: str) -> None:
    assert await client.code("ScheduleJob", REFUSED[case]) is Code.INVALID_ARGUMENT
    assert await node.count() == 0


async def test_a_request_that_is_sent_again_is_the_same_instance(client: RawClient, node: Node) -> None:
    id = IdSource(node.clock).one()
    request = pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"], uuid=id.upper())

    for number in range(3):
        answer = await client.call("ScheduleJob", request)
        assert (answer.instance.uuid, answer.existed, answer.repeated) == (id, False, number > 0)
        await final(client, id)
    mixed = pb.ScheduleJobsRequest(jobs=[request, pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"])])
    assert await client.code("ScheduleJobs", mixed) is Code.INVALID_ARGUMENT
    assert await node.count() == 1


async def test_only_another_instance_with_the_key_existed(client: RawClient) -> None:
    keyed = sum_request(key="k", after=span(3_600_000_000))
    first, again = [await client.call("ScheduleJob", keyed) for _ in range(2)]
    (other,) = (await client.call("ScheduleJobs", pb.ScheduleJobsRequest(jobs=[keyed]))).scheduled
    shown = [(one.instance.uuid == first.instance.uuid, one.existed, one.repeated) for one in (first, again, other)]
    assert shown == [(True, False, False), (True, True, False), (True, True, False)]


async def test_an_id_of_another_kind_is_refused(client: RawClient, node: Node) -> None:
    id = IdSource(node.clock).one()
    assert (await client.call("ScheduleJob", pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"], uuid=id))).instance
    await final(client, id)
    other = pb.ScheduleJobRequest(kind="span", arguments=["u", "1h"], uuid=id)
    assert await client.code("ScheduleJob", other) is Code.INVALID_ARGUMENT
    assert await client.code("ScheduleJobs", pb.ScheduleJobsRequest(jobs=[other])) is Code.INVALID_ARGUMENT
    assert (await final(client, id)).kind == "sum"
    assert await node.count() == 1


async def test_a_bulk_is_checked_before_any_of_it_is_stored(client: RawClient, node: Node) -> None:
    good, bad = pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"]), pb.ScheduleJobRequest(kind="sum")

    assert await client.code("ScheduleJobs", pb.ScheduleJobsRequest(jobs=[good, bad])) is Code.INVALID_ARGUMENT
    assert await node.count() == 0
    answer = await client.call("ScheduleJobs", pb.ScheduleJobsRequest(jobs=[good] * 30))
    assert len({one.instance.uuid for one in answer.scheduled}) == 30
    assert await client.code("ScheduleJobs", pb.ScheduleJobsRequest(jobs=[good] * 1_001)) is Code.INVALID_ARGUMENT
    assert await node.count() == 30


async def test_what_is_not_there_is_not_found(client: RawClient) -> None:
    unknown = "01900000-0000-7000-8000-000000000000"

    assert await client.code("GetInstance", pb.GetInstanceRequest(uuid=unknown)) is Code.NOT_FOUND
    assert await client.code("WaitInstance", pb.WaitInstanceRequest(uuid=unknown)) is Code.NOT_FOUND
    assert await client.code("CancelInstance", pb.CancelInstanceRequest(uuid=unknown)) is Code.NOT_FOUND
    assert await client.code("ScheduleJob", pb.ScheduleJobRequest(kind="nope")) is Code.NOT_FOUND
    assert await client.code("GetSchedule", pb.GetScheduleRequest(name="nope")) is Code.NOT_FOUND
    assert await client.code("GetInstance", pb.GetInstanceRequest(uuid="x")) is Code.INVALID_ARGUMENT


async def test_a_repeat_of_what_is_not_over_is_refused(client: RawClient, node: Node) -> None:
    one = await node.schedule("hang")

    assert await client.code("RetryInstance", pb.RetryInstanceRequest(uuid=one.id)) is Code.FAILED_PRECONDITION


async def test_a_client_that_knows_no_pages_gets_the_latest_that_fit(
    node: Node, client: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    large = [await node.schedule(Job("elsewhere"), str(number) + "x" * 600_000) for number in range(8)]
    answer = await client.call("LookupInstances", pb.LookupInstancesRequest())
    shown = [one.uuid for one in answer.instances]
    assert answer.cut
    assert not answer.HasField("cursor")
    assert 3 <= len(shown) < 8
    assert shown == [one.id for one in large][-len(shown) :]
    assert "a lookup without a limit matched more than fits" in caplog.text

    entries = await client.call("LookupHistory", pb.LookupHistoryRequest())
    assert not entries.cut
    assert [(one.uuid, one.state) for one in entries.entries] == [
        (one.id, state) for one in large for state in (pb.JOB_STATE_CREATED, pb.JOB_STATE_SCHEDULED)
    ]


async def test_an_instance_is_scheduled_at_the_time_when_it_is_due(node: Node, client: RawClient) -> None:
    request = pb.ScheduleJobRequest(kind="sum", arguments=["1", "2"], options=pb.JobOptions(after=span(3_600_000_000)))
    instance = (await client.call("ScheduleJob", request)).instance
    assert instance.scheduled_at == instance.due_at
    assert 3_500 < instance.scheduled_at.seconds - instance.created_at.seconds <= 3_700


async def test_pages_go_on_where_they_stopped_and_fit_into_a_message(node: Node, client: RawClient) -> None:
    handle = Job("elsewhere")
    made = [await node.schedule(handle, "x" * 400_000) for _ in range(20)]

    query, found, pages = pb.Query(limit=10_000), list[str](), 0
    while True:
        answer = await client.call("LookupInstances", pb.LookupInstancesRequest(query=query))
        found += [one.uuid for one in answer.instances]
        pages += 1
        if not answer.HasField("cursor"):
            break
        query.cursor = answer.cursor

    assert found == [one.id for one in made]
    assert pages > 1, "gRPC clients refuse messages over 4 MB"


@pytest.mark.parametrize("limit", [1, FIRST_STEP - 1, FIRST_STEP, FIRST_STEP + 1, FIRST_STEP + 2])
async def test_a_page_of_small_instances_has_as_many_as_asked_for(node: Node, limit: int) -> None:
    made = [await node.schedule(Job("elsewhere"), number) for number in range(FIRST_STEP + 3)]
    messages, cursor = await page_that_fits(
        node.lookup_instances, lambda one: instance_message(one.record, encoded=False), Query(limit=limit, order="asc")
    )
    assert [one.uuid for one in messages] == [one.id for one in made[:limit]]
    assert cursor is not None


async def test_a_page_of_large_instances_reads_little_more_than_it_tells(node: Node) -> None:
    """An earlier version read 83 instances to return 6."""
    for _ in range(40):
        await node.schedule(Job("elsewhere"), "x" * 400_000)
    read: list[int] = []

    async def look(query: Query) -> ResultPage[Instance[Any]]:
        page = await node.lookup_instances(query)
        read.append(len(page))
        return page

    messages, cursor = await page_that_fits(
        look, lambda one: instance_message(one.record, encoded=False), Query(limit=10_000, order="asc")
    )

    assert len(messages) == 8
    assert cursor is not None
    assert sum(read) <= 3 * len(messages)


async def test_a_request_over_the_limit_is_refused_and_the_server_lives(client: RawClient) -> None:
    large = pb.ScheduleJobRequest(kind="sum", arguments=["x" * (17 << 20)])

    assert await client.code("ScheduleJob", large) is Code.RESOURCE_EXHAUSTED
    assert await client.code("GetVersion", pb.VersionRequest()) is Code.OK


async def test_an_answer_over_the_limit_is_refused_and_the_server_lives() -> None:
    async with served(*JOBS, max_message=2_000) as (node, server), raw_client(server.target) as client:
        await node.schedule_many(Job("hang").call() for _ in range(20))

        assert await client.code("LookupInstances", pb.LookupInstancesRequest()) is Code.INVALID_ARGUMENT
        assert await client.code("GetVersion", pb.VersionRequest()) is Code.OK


async def test_a_deadline_is_kept(client: RawClient, node: Node) -> None:
    one = await node.schedule("hang")

    code = await client.code("WaitInstance", pb.WaitInstanceRequest(uuid=one.id), timeout=0.1)
    assert code is Code.DEADLINE_EXCEEDED
    waiting = pb.WaitInstanceRequest(uuid=one.id, timeout=Duration(nanos=1_000_000))
    assert not (await client.call("WaitInstance", waiting)).final
    assert not (await client.call("WaitInstances", pb.WaitInstancesRequest(timeout=Duration()))).quiet


async def test_a_wait_ends_after_a_while_however_long_it_is_asked_to_be(
    client: RawClient, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerjob.remote.server.instances.MAX_WAIT", 0.05)
    one = await node.schedule("hang")

    for asked in (None, Duration(seconds=60)):
        waiting = pb.WaitInstanceRequest(uuid=one.id, timeout=asked)
        assert not (await client.call("WaitInstance", waiting)).final


async def test_a_watch_tells_what_happens_once_it_has_begun(client: RawClient, node: Node) -> None:
    stream = client.stream("Watch", pb.WatchRequest(query=pb.Query(kind="fail")))
    assert await stream.initial_metadata()
    made = await node.schedule("fail", "x")
    seen = list[State]()

    async for data in stream:
        event = pb.WatchResponse.FromString(data)
        assert (event.instance.uuid, event.WhichOneof("what")) == (made.id, "entry")
        seen.append(State(event.entry.state))
        if seen[-1].is_final:
            break
    assert seen == [State.CREATED, State.SCHEDULED, State.PROCESSING, State.TERMINATED]


async def test_each_watch_gets_the_values_in_the_form_that_it_asks_for(client: RawClient, node: Node) -> None:
    views = [pb.INSTANCE_VIEW_UNSPECIFIED, pb.INSTANCE_VIEW_ENCODED] * 2
    streams = [client.stream("Watch", pb.WatchRequest(query=pb.Query(kind="sum", view=view))) for view in views]
    for stream in streams:
        await stream.initial_metadata()
    await node.schedule("sum", 1, 2)
    for view, stream in zip(views, streams, strict=True):
        shown = pb.WatchResponse.FromString(await stream.read()).instance
        assert shown.HasField("spec") is (view == pb.INSTANCE_VIEW_ENCODED)
        assert bool(shown.arguments) is (view != pb.INSTANCE_VIEW_ENCODED)


async def test_logs_go_on_from_a_cursor(client: RawClient, node: Node) -> None:
    made = await node.schedule("talk", 5)
    await made.wait()

    async def lines(cursor: str | None, **options: bool) -> tuple[list[str], str]:
        request = pb.ReadLogsRequest(uuid=made.id, cursor=cursor, **cast(Any, options))
        texts, last = list[str](), ""
        async for data in client.stream("ReadLogs", request):
            answer = pb.ReadLogsResponse.FromString(data)
            texts += [line.message for line in answer.lines]
            last = answer.cursor
        return texts, last

    found, cursor = await lines(None)
    assert found == [f"line {number}" for number in range(5)]
    assert await lines(cursor) == ([], "")
    assert (await lines(None, follow=True))[0] == found
    unknown = pb.ReadLogsRequest(uuid="01900000-0000-7000-8000-000000000000", follow=True)
    assert await client.code("ReadLogs", unknown) is Code.NOT_FOUND


async def test_schedules_are_made_shown_and_tried(client: RawClient) -> None:
    job = pb.ScheduleJobRequest(
        kind="sum", arguments=["1", "2"], options=pb.JobOptions(name="mine", cron="*/5 3 29 2 *", overlap="queue")
    )
    made = (await client.call("PutSchedule", pb.PutScheduleRequest(job=job))).schedule
    assert (made.name, made.kind, made.options.cron, made.options.overlap) == ("mine", "sum", "*/5 3 29 2 *", "queue")
    assert list(made.arguments) == ["1", "2"]

    paused = (await client.call("PauseSchedule", pb.PauseScheduleRequest(name="mine", note="why"))).schedule
    assert (paused.paused, paused.note) == (True, "why")
    assert not (await client.call("ResumeSchedule", pb.ResumeScheduleRequest(name="mine"))).schedule.paused
    listed = (await client.call("ListSchedules", pb.ListSchedulesRequest())).schedules
    assert [one.name for one in listed] == ["leap", "mine"]
    times = (await client.call("NextFires", pb.NextFiresRequest(name="mine", count=3))).times
    assert [one.seconds - times[0].seconds for one in times] == [0, 300, 600]
    made = (await client.call("TriggerSchedule", pb.TriggerScheduleRequest(name="mine"))).instance
    assert (await final(client, made.uuid)).schedule == "mine"
    fires = (await client.call("ListFires", pb.ListFiresRequest(name="mine"))).fires
    assert [(one.outcome, one.instance) for one in fires] == [("triggered", made.uuid)]
    start = datetime(2024, 2, 29, 3, tzinfo=UTC)
    filling = pb.BackfillRequest(
        name="mine", start=moment_stamp(start), end=moment_stamp(start + timedelta(minutes=15))
    )
    done = await client.call("Backfill", filling)
    assert (done.times, done.made + done.trimmed + done.skipped) == (3, 3)
    assert (await client.call("RemoveSchedule", pb.RemoveScheduleRequest(name="mine"))).removed
    assert not (await client.call("RemoveSchedule", pb.RemoveScheduleRequest(name="mine"))).removed


async def test_a_cron_text_is_explained(client: RawClient) -> None:
    answer = await client.call("ExplainCron", pb.ExplainCronRequest(cron="0 3 * * *", timezone="Europe/Berlin"))

    assert len(answer.times) == 5
    assert "03:00" in answer.text
    assert await client.code("ExplainCron", pb.ExplainCronRequest(cron="0 0 31 2 *")) is Code.INVALID_ARGUMENT


async def test_the_cluster_and_the_node(client: RawClient, node: Node) -> None:
    [one] = (await client.call("ListNodes", pb.ListNodesRequest())).nodes
    assert (one.name, one.incarnation, one.workers) == (node.name, node.incarnation, 4)
    assert set(one.kinds) == {"sum", "span", "fail", "hang", "leap", "talk"}
    assert (await client.call("ResizeWorkers", pb.ResizeWorkersRequest(workers=2))).workers == 2
    for many in (0, -1, 10_001, 2**31 - 1):
        assert await client.code("ResizeWorkers", pb.ResizeWorkersRequest(workers=many)) is Code.INVALID_ARGUMENT
    workers = await client.call("ListWorkers", pb.ListWorkersRequest())
    assert (workers.node, [worker.number for worker in workers.workers]) == (node.name, [0, 1])
    await node.schedule("sum", 1, 2)
    await node.wait()
    counts = (await client.call("GetStats", pb.GetStatsRequest())).counts
    assert [(one.kind, one.state, one.count) for one in counts if one.count] == [("sum", pb.JOB_STATE_COMPLETED, 1)]
    assert (await client.call("Drain", pb.DrainRequest())).drained


async def test_clearing(client: RawClient, node: Node) -> None:
    await node.schedule("sum", 1, 2)
    await node.wait()
    past = pb.Filter(before=moment_stamp(datetime(2020, 1, 1, tzinfo=UTC)))

    assert (await client.call("ClearInstances", pb.ClearInstancesRequest(filter=past))).count == 0
    for verb, request in (
        ("ClearHistory", pb.ClearHistoryRequest()),
        ("ClearLogs", pb.ClearLogsRequest(filter=pb.Filter())),
        ("ClearInstances", pb.ClearInstancesRequest()),
    ):
        assert await client.code(verb, request) is Code.INVALID_ARGUMENT
    everything = pb.Filter(all=True)
    assert (await client.call("ClearHistory", pb.ClearHistoryRequest(filter=everything))).count == 1
    assert (await client.call("ClearLogs", pb.ClearLogsRequest(filter=everything))).count == 0
    assert (await client.call("ClearInstances", pb.ClearInstancesRequest(filter=everything))).count == 1
    await client.call("Clear", pb.ClearRequest())


# -- the server --------------------------------------------------------------------------------------------------------


async def test_health_follows_the_node(site: tuple[Node, Server]) -> None:
    node, server = site
    async with health_client(server.target) as health:
        for service in ("", SERVICE.full_name):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await node.stop()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    async with raw_client(server.target) as client:
        assert await client.code("GetStats", pb.GetStatsRequest()) is Code.UNAVAILABLE


async def test_health_tells_kubelets_whether_the_node_is_alive_and_ready(site: tuple[Node, Server]) -> None:
    node, server = site
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with health_client(server.target) as health:

        async def status(service: str) -> int:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            return int(answer.status)

        watch = health.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await watch.read()).status == await status("liveness") == serving
        await node.drain()
        assert (await watch.read()).status == not_serving
        assert await status("liveness") == await status("") == serving


async def test_one_update_reports_the_health_of_now(site: tuple[Node, Server]) -> None:
    node, _ = site
    reporter = HealthReporter(node)

    async def reported() -> dict[str, int]:
        await reporter.show()
        requests = {name: health_pb2.HealthCheckRequest(service=name) for name in (*NAMES, *PROBES)}
        return {name: (await reporter.servicer.Check(request, None)).status for name, request in requests.items()}

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert await reported() == dict.fromkeys((*NAMES, *PROBES), serving)
    await node.stop()
    assert await reported() == dict.fromkeys((*NAMES, "readiness"), not_serving) | {"liveness": serving}


async def test_a_server_serves_again_after_a_stop(site: tuple[Node, Server]) -> None:
    for _ in range(2):
        await site[1].stop(grace=0)
        await site[1].start()
        async with health_client(site[1].target) as health:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_tells_the_service(site: tuple[Node, Server]) -> None:
    def ask() -> tuple[list[str], int]:
        with grpc.insecure_channel(site[1].target) as channel:
            found = ProtoReflectionDescriptorDatabase(channel)
            names = list(found.get_services())
            return names, len(found.FindFileContainingSymbol("job.v1.JobService").service[0].method)

    names, methods = await asyncio.to_thread(ask)

    assert "job.v1.JobService" in names
    assert methods == len(SERVICE.methods)


async def test_a_stop_ends_waits_and_lets_other_calls_end(site: tuple[Node, Server], client: RawClient) -> None:
    node, server = site
    one: Instance[None] = await node.schedule("hang")
    waiting = asyncio.ensure_future(client.code("WaitInstance", pb.WaitInstanceRequest(uuid=one.id)))
    watching = asyncio.ensure_future(client.code("Watch", pb.WatchRequest(query=pb.Query(kind="sum"))))
    following = asyncio.ensure_future(client.code("ReadLogs", pb.ReadLogsRequest(uuid=one.id, follow=True)))
    await until(lambda: open_are(server, 3))

    async with asyncio.timeout(60):
        await server.stop(grace=3600)

    assert await waiting is Code.UNAVAILABLE
    assert await watching is Code.UNAVAILABLE
    assert await following is Code.UNAVAILABLE
    assert await client.code("GetVersion", pb.VersionRequest()) is Code.UNAVAILABLE
    assert node.running


async def open_are(server: Server, calls: int) -> bool:
    return open_calls(server) == calls


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:59051", "example.org:59051"])
def test_an_open_door_is_refused(listen: str) -> None:
    with pytest.raises(OptionError, match="insecure"):
        Server(Node(), listen)
    Server(Node(), listen, insecure=True)


@pytest.mark.parametrize("listen", ["", "59051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", ":59051", "localhost:x"])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(OptionError, match="listen"):
        Server(Node(), listen)


async def test_a_port_that_is_taken_is_refused(site: tuple[Node, Server]) -> None:
    with pytest.raises(OptionError, match="no other program"):
        await Server(site[0], site[1].target).start()


async def test_rubbish_on_every_rpc_gets_an_answer_and_the_server_lives(client: RawClient, node: Node) -> None:
    chance = random.Random(4)
    seen = set[tuple[str, grpc.StatusCode]]()
    for _ in range(1_000):
        name, data = rubbish(chance)
        code = await client.code(name, data, timeout=0.2)
        assert code in PROPER, f"{name} {data!r}: {code}"
        seen.add((name, code))

    assert {name for name, _ in seen} == {method.name for method in SERVICE.methods}
    assert {code for _, code in seen} >= {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND}
    assert (await client.call("GetVersion", pb.VersionRequest())).version == __version__
    assert not (await node.schedule("sum", 1, 2)).state.is_final


async def test_a_watch_whose_reader_is_gone_ends(site: tuple[Node, Server], client: RawClient) -> None:
    calls = [client.stream("Watch", pb.WatchRequest()) for _ in range(20)]
    for call in calls:
        await call.initial_metadata()
    assert open_calls(site[1]) == 20

    for call in calls:
        call.cancel()

    await until(lambda: open_are(site[1], 0))


async def test_a_connection_has_so_many_calls_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "MAX_STREAMS", 2)
    async with served(*JOBS) as (_, server), raw_client(server.target) as client:
        assert await client.code("CountInstances", pb.CountInstancesRequest()) is Code.OK  # with which the limit comes
        calls = [client.stream("Watch", pb.WatchRequest()) for _ in range(3)]
        begun = [asyncio.ensure_future(call.initial_metadata()) for call in calls]
        await asyncio.wait(begun[:2])
        await asyncio.wait(begun[2:], timeout=0.3)
        assert [one.done() for one in begun] == [True, True, False]
        calls[0].cancel()
        await begun[2]
        for call in calls[1:]:
            call.cancel()


async def test_changed_instances_are_listed_in_an_answer_that_fits() -> None:
    """The caller cannot repeat the request, so the last instances are ids without details."""

    def whole(number: int) -> pb.JobInstance:
        return pb.JobInstance(uuid=str(number), kind="k" * 400_000)

    fitting = await messages_that_fit(range(20), whole, lambda number: pb.JobInstance(uuid=str(number)))
    assert [one.uuid for one in fitting] == [str(number) for number in range(20)]
    assert MAX_BYTES - 400_000 < sum(one.ByteSize() for one in fitting) < MAX_BYTES + 500_000
