"""Each RPC, against a daemon on Redis and one on etcd."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.rpcs import SERVICE
from support.rpc import RawClient, raw_client
from support.waiting import PATIENCE

PATIENT = Duration(seconds=60)


async def over(client: RawClient, *arguments: str) -> str:
    """An instance of the job `slow` that is over."""
    made = await client.call("ScheduleJob", pb.ScheduleJobRequest(kind="slow", arguments=arguments))
    done = await client.call("WaitInstance", pb.WaitInstanceRequest(uuid=made.instance.uuid, timeout=PATIENT))
    assert done.final
    return str(made.instance.uuid)


@pytest.mark.parametrize("target", ["redis", "etcd"], indirect=True)
async def test_every_rpc_is_answered_by_a_daemon(target: str) -> None:
    async with raw_client(target) as client:
        done = await over(client, "2", "0")
        delayed = pb.ScheduleJobRequest(kind="slow", arguments=["0", "0"])
        delayed.options.after.FromSeconds(3_600)
        late = (await client.call("ScheduleJob", delayed)).instance.uuid
        query = pb.Query(kind="slow", uuid=done)
        add = pb.ScheduleJobRequest(kind="add", json_arguments="[1, 2]")
        hourly = pb.ScheduleJobRequest(kind="add", arguments=["1", "2"])
        hourly.options.cron, hourly.options.name = "0 * * * *", "each-rpc"
        begin = Timestamp(seconds=1_767_225_600)
        # in this order: what removes comes last
        requests: dict[str, Message] = {
            "GetVersion": pb.VersionRequest(),
            "ListRegisteredJobs": pb.ListRegisteredJobsRequest(),
            "ScheduleJob": add,
            "ScheduleJobs": pb.ScheduleJobsRequest(jobs=[add, add]),
            "ScheduleFlow": pb.ScheduleFlowRequest(name="two", members=[pb.FlowMember(call=add)]),
            "Signal": pb.SignalRequest(uuid=late, name="approval", json_value="true"),
            "GetSteps": pb.GetStepsRequest(uuid=late),
            "GetInstance": pb.GetInstanceRequest(uuid=done),
            "LookupInstances": pb.LookupInstancesRequest(query=query),
            "LookupHistory": pb.LookupHistoryRequest(query=query),
            "LookupLogs": pb.LookupLogsRequest(query=query),
            "ReadLogs": pb.ReadLogsRequest(uuid=done, follow=True),
            "CountInstances": pb.CountInstancesRequest(query=query),
            "GetStats": pb.GetStatsRequest(),
            "GetActivity": pb.GetActivityRequest(minutes=5),
            "WaitInstance": pb.WaitInstanceRequest(uuid=done, timeout=PATIENT),
            "WaitInstances": pb.WaitInstancesRequest(query=query, timeout=PATIENT),
            "CancelInstance": pb.CancelInstanceRequest(uuid=done),
            "CancelInstances": pb.CancelInstancesRequest(query=query),
            "RunNow": pb.RunNowRequest(uuid=late),
            "RetryInstance": pb.RetryInstanceRequest(uuid=done),
            "RetryInstances": pb.RetryInstancesRequest(query=query),
            "PutSchedule": pb.PutScheduleRequest(job=hourly),
            "ListSchedules": pb.ListSchedulesRequest(),
            "GetSchedule": pb.GetScheduleRequest(name="each-rpc"),
            "PauseSchedule": pb.PauseScheduleRequest(name="each-rpc", note="moving"),
            "ResumeSchedule": pb.ResumeScheduleRequest(name="each-rpc"),
            "TriggerSchedule": pb.TriggerScheduleRequest(name="each-rpc"),
            "Backfill": pb.BackfillRequest(name="each-rpc", start=begin, end=Timestamp(seconds=begin.seconds + 7200)),
            "ListFires": pb.ListFiresRequest(name="each-rpc"),
            "NextFires": pb.NextFiresRequest(name="each-rpc", count=2),
            "ExplainCron": pb.ExplainCronRequest(cron="0 3 * * 1"),
            "RemoveSchedule": pb.RemoveScheduleRequest(name="each-rpc"),
            "ListNodes": pb.ListNodesRequest(),
            "GetLeader": pb.GetLeaderRequest(),
            "ListWorkers": pb.ListWorkersRequest(),
            "ListAudit": pb.ListAuditRequest(),
            "ListLimits": pb.ListLimitsRequest(),
            "ListKeyLimits": pb.ListKeyLimitsRequest(kind="add"),
            "ExplainLimits": pb.ExplainLimitsRequest(uuid=done),
            "SetLimit": pb.SetLimitRequest(name="none"),
            "SetKeyLimit": pb.SetKeyLimitRequest(kind="add"),
            "PauseKind": pb.PauseKindRequest(kind="add", note="moving"),
            "ResumeKind": pb.ResumeKindRequest(kind="add"),
            "ResizeWorkers": pb.ResizeWorkersRequest(workers=4),
            "ClearLogs": pb.ClearLogsRequest(filter=pb.Filter(before=begin)),
            "ClearHistory": pb.ClearHistoryRequest(filter=pb.Filter(before=begin)),
            "ClearInstances": pb.ClearInstancesRequest(filter=pb.Filter(before=begin)),
        }
        codes = {name: await client.code(name, request) for name, request in requests.items()}
        refused = {name: code for name, code in codes.items() if code is not grpc.StatusCode.OK}
        # no job of the daemon has a limit
        assert refused == dict.fromkeys(("SetLimit", "SetKeyLimit"), grpc.StatusCode.INVALID_ARGUMENT)

        assert (await client.call("LookupInstances", pb.LookupInstancesRequest(query=query))).instances[0].uuid == done
        found = await client.call("LookupLogs", pb.LookupLogsRequest(query=query))
        assert [line.message for line in found.lines] == ["line 0", "line 1"]

        stream = client.stream("Watch", pb.WatchRequest(query=pb.Query(kind="slow")))
        await stream.initial_metadata()
        again = await over(client, "1", "0")
        async with asyncio.timeout(PATIENCE):
            while pb.WatchResponse.FromString(await stream.read()).instance.uuid != again:
                pass
        stream.cancel()
        updates = client.stream("WatchInstance", pb.WatchInstanceRequest(uuid=again))
        assert await updates.read()
        updates.cancel()

        await client.call("Clear", pb.ClearRequest())
        assert (await client.call("CountInstances", pb.CountInstancesRequest())).count == 0
        assert (await client.call("Drain", pb.DrainRequest(timeout=PATIENT))).drained
        await client.call("Undrain", pb.UndrainRequest())
        assert requests.keys() | {"Watch", "WatchInstance", "Clear", "Drain", "Undrain"} == {
            method.name for method in SERVICE.methods
        }
