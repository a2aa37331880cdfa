"""Every caller, every RPC, every kind: what a token opens, and what it shows."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from peerjob import (
    INJECTED,
    Client,
    Filter,
    Instance,
    Job,
    KeyLimit,
    Limit,
    Node,
    OptionError,
    Role,
    StoreUnavailableError,
    Token,
    Tokens,
    instance_cleaner,
)
from peerjob.model.activity_sample import OTHER_KINDS, SLOT_US, ActivityRow, ActivitySample
from peerjob.model.ids import IdSource
from peerjob.model.rights import Rights
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.rpcs import RPCS, SCOPES, SERVICE
from support.factories import shared_url
from support.rpc import RawClient, raw_client, served

Code = grpc.StatusCode
OK, DENIED, UNKNOWN = Code.OK, Code.PERMISSION_DENIED, Code.NOT_FOUND
SECRETS = {"mail.send": "hidden-in-mail", "report": "hidden-in-report"}
LIMITED: dict[str, tuple[grpc.StatusCode, grpc.StatusCode]] = {
    # the answers to a token for mail.*, to a call about mail.send and to the same call about report
    **dict.fromkeys(["GetVersion", "ExplainCron", "GetLeader", "ListNodes", "ListWorkers"], (OK, OK)),
    **dict.fromkeys(["ListRegisteredJobs", "GetStats", "GetActivity", "ListSchedules", "ListLimits"], (OK, OK)),
    "ListKeyLimits": (OK, DENIED),
    **dict.fromkeys(["LookupInstances", "LookupHistory", "LookupLogs", "CountInstances", "Watch"], (OK, DENIED)),
    **dict.fromkeys(["WaitInstances", "CancelInstances", "RetryInstances"], (OK, DENIED)),
    **dict.fromkeys(["GetInstance", "ReadLogs", "WaitInstance", "WatchInstance", "ExplainLimits"], (OK, UNKNOWN)),
    **dict.fromkeys(["CancelInstance", "RunNow", "RetryInstance", "Signal", "GetSteps"], (OK, UNKNOWN)),
    **dict.fromkeys(["GetSchedule", "ListFires", "NextFires", "PauseSchedule", "ResumeSchedule"], (OK, UNKNOWN)),
    **dict.fromkeys(["TriggerSchedule", "RemoveSchedule", "Backfill"], (OK, UNKNOWN)),
    **dict.fromkeys(["ScheduleJob", "ScheduleJobs", "ScheduleFlow", "PutSchedule"], (OK, DENIED)),
    **dict.fromkeys(["Clear", "ClearInstances", "ClearHistory", "ClearLogs"], (DENIED, DENIED)),
    **dict.fromkeys(["ResizeWorkers", "Drain", "Undrain", "ListAudit"], (DENIED, DENIED)),
    **dict.fromkeys(["SetLimit", "SetKeyLimit", "PauseKind", "ResumeKind"], (DENIED, DENIED)),
}
CALLERS = [(role, kinds) for role in Role for kinds in ((), ("mail.*",))]
TOKENS = Tokens([Token.of(f"{role.name}{len(kinds)}", role, role.name, kinds=kinds) for role, kinds in CALLERS])
START = datetime(2026, 1, 1, tzinfo=UTC)


async def say(secret: str, instance: Instance[str] = INJECTED) -> str:
    instance.log.info("%s", secret)
    return secret


JOBS = [
    Job(kind, say, limits=[Limit(kind, concurrency=100), KeyLimit("{secret}", concurrency=100)]) for kind in SECRETS
]


def request_of(name: str, kind: str, uuid: str) -> Any:
    """A request for an RPC about a kind and an instance of it."""
    request = RPCS[name].request()
    fields = request.DESCRIPTOR.fields_by_name
    given: dict[str, Any] = {"uuid": uuid, "name": kind, "timeout": Duration(), "cron": "0 0 29 2 *", "workers": 1}
    if name not in ("ScheduleJob", "ListRegisteredJobs"):
        given["kind"] = kind
    for field, value in given.items():
        if field in fields and hasattr(value, "CopyFrom"):
            getattr(request, field).CopyFrom(value)
        elif field in fields:
            setattr(request, field, value)
    if "query" in fields:
        request.query.kind = kind
    if "filter" in fields:
        request.filter.all = True
    if name == "Backfill":
        request.start.CopyFrom(_stamp(START))
        request.end.CopyFrom(_stamp(START + timedelta(hours=1)))
    if name == "Signal":
        request.json_value = '"a secret value"'
    _add_call(request, name, kind)
    return request


def _add_call(request: Any, name: str, kind: str) -> None:
    call = pb.ScheduleJobRequest(kind=kind, arguments=[SECRETS[kind]])
    if name == "ScheduleFlow":
        request.ClearField("uuid")
        request.members.append(pb.FlowMember(call=call))
    elif name == "ScheduleJob":
        request.CopyFrom(call)
    elif name == "ScheduleJobs":
        request.jobs.append(call)
    elif name == "PutSchedule":
        request.job.CopyFrom(call)
        request.job.options.CopyFrom(pb.JobOptions(name=kind, cron="0 0 29 2 *"))


def _stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def _prepared(node: Node, kind: str) -> str:
    """Store a schedule of a kind, and an instance that is final and has a log line; the id of the instance."""
    job = node.job(kind)
    await node.add_schedule(job.with_options(name=kind, cron="0 0 29 2 *").call(SECRETS[kind]))
    instance = await node.schedule(job, SECRETS[kind])
    await instance.result(10)
    return instance.id


async def _delayed(node: Node, kind: str) -> str:
    return (await node.schedule(node.job(kind).with_options(after="1h"), SECRETS[kind])).id


async def _answer(client: RawClient, name: str, request: Any, token: str) -> tuple[grpc.StatusCode, bytes]:
    try:
        if name != "Watch":
            return OK, await client.send(name, request.SerializeToString(), token=token)
        call: Any = client.stream(name, request, token=token)
        if not await call.initial_metadata():
            return await call.code(), b""
        call.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code(), (error.details() or "").encode()
    return OK, b""


def test_every_rpc_has_a_scope() -> None:
    assert SCOPES.keys() == RPCS.keys() == LIMITED.keys() == {method.name for method in SERVICE.methods}


async def test_every_caller_every_rpc_and_every_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "peerjob")
    cells = 0
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        ids = {kind: await _prepared(node, kind) for kind in SECRETS}
        for role, kinds in CALLERS:
            for name, rpc in RPCS.items():
                for number, kind in enumerate(SECRETS):
                    expected = DENIED if role < rpc.role else LIMITED[name][number] if kinds else OK
                    id = await _delayed(node, kind) if name in ("RunNow", "Signal") else ids[kind]
                    request = request_of(name, kind, id)
                    found, data = await _answer(client, name, request, f"{role.name}{len(kinds)}")
                    assert found is expected, (role, kinds, name, kind, data)
                    if kinds:
                        assert SECRETS["report"].encode() not in data, (role, name, kind)
                    cells += 1
                    await node.undrain()
                    if (expected is OK and role < rpc.role) or name in ("Clear", "ClearInstances", "RemoveSchedule"):
                        ids = {kind: await _prepared(node, kind) for kind in SECRETS}
    assert cells == len(CALLERS) * len(RPCS) * len(SECRETS)
    for secret in (*SECRETS.values(), *(f"{role.name}{len(kinds)}" for role, kinds in CALLERS)):
        shown = [one for one in caplog.records if one.name != "peerjob.job" and secret in one.getMessage()]
        assert not shown, secret


async def test_every_acting_call_is_recorded_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "peerjob.audit")
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        ids = {kind: await _prepared(node, kind) for kind in SECRETS}
        for name in RPCS:
            for kind in SECRETS:
                for role, limit in ((Role.ADMIN, 0), (Role.READER, 0), (Role.OPERATOR, 1)):
                    await _answer(client, name, request_of(name, kind, ids[kind]), f"{role.name}{limit}")
                await node.undrain()
                if name in ("Clear", "ClearInstances", "RemoveSchedule"):
                    ids = {kind: await _prepared(node, kind) for kind in SECRETS}
        await node.audit_trail.flush()
        stored = await node.audit(1000)
    audited = [record for record in caplog.records if record.name == "peerjob.audit"]
    logged: list[dict[str, Any]] = [vars(record)["audit"] for record in audited]
    acting = {name for name, rpc in RPCS.items() if rpc.role is not Role.READER} - {"ListAudit"}
    assert {one["verb"] for one in logged} == acting == {one.verb for one in stored}
    assert len(logged) == len(acting) * len(SECRETS) * 3
    # an operator for mail.* may act on mail.send by nine RPCs and the like; all refused calls are only in the logger
    assert sum(one.calls for one in stored) == sum(one["result"] != "denied" for one in logged)
    assert {one.principal for one in stored} <= {"ADMIN", "OPERATOR"}
    assert {one["principal"] for one in logged if one["result"] == "denied"} == {"READER", "OPERATOR"}
    texts = [*(record.getMessage() for record in audited), *map(repr, stored), *map(repr, logged)]
    for secret in SECRETS.values():
        assert not [text for text in texts if secret in text]
    (made,) = [
        one for one in stored if one.verb == "ScheduleJob" and one.principal == "OPERATOR" and one.result == "ok"
    ]
    assert (made.criteria, made.count, made.calls, made.address) == ("kind=mail.send", 1, 1, "127.0.0.1")


async def test_many_calls_that_schedule_share_a_record() -> None:
    async with served(*JOBS) as (node, server), raw_client(server.target) as client:
        for _ in range(4):
            await client.call("ScheduleJob", request_of("ScheduleJob", "report", ""))
        id = IdSource(node.clock).one()
        for text in ("first", "a repeat, which makes nothing"):
            await client.call("ScheduleJob", pb.ScheduleJobRequest(kind="report", arguments=[text], uuid=id))
        await client.code("CancelInstance", pb.CancelInstanceRequest(uuid="x"))
        await node.audit_trail.flush()
        cancel, made = await node.audit()
    assert (made.principal, made.count, made.calls, made.result) == ("anonymous", 5, 6, "ok")
    assert (cancel.verb, cancel.criteria, cancel.count, cancel.result) == (
        "CancelInstance",
        "uuid=x",
        None,
        "OptionError",
    )


async def test_records_wait_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(*JOBS) as (node, server), raw_client(server.target) as client:
        await client.call("ScheduleJob", request_of("ScheduleJob", "report", ""))

        async def away(records: Any) -> None:
            raise StoreUnavailableError("memory://", "away")

        with monkeypatch.context() as patch:
            patch.setattr(node, "add_audit", away)
            with pytest.raises(StoreUnavailableError):
                await node.audit_trail.flush()
            assert await node.audit() == []
        await server.stop()
        assert [one.verb for one in await node.audit()] == ["ScheduleJob"]


@pytest.mark.parametrize("limit", [0, 1001, True, "x"])
async def test_a_limit_of_the_audit_log_that_is_none_is_refused(limit: Any) -> None:
    async with served(*JOBS) as (node, server), Client(server.target) as client:
        for manager in (node, client):
            with pytest.raises(OptionError, match="limit: expected a number from 1 to 1,000"):
                await manager.audit(limit)


async def test_a_client_reads_the_audit_log() -> None:
    async with served(*JOBS) as (node, server), Client(server.target) as client:
        made = await client.schedule("report", SECRETS["report"])
        await made.result(10)
        await node.audit_trail.flush()
        assert await client.audit(5) == await node.audit(5)
        assert [one.verb for one in await client.audit()] == ["ScheduleJob"]


async def test_lists_leave_out_other_kinds() -> None:
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        for kind in SECRETS:
            await _prepared(node, kind)
        for name, rpc in RPCS.items():
            if (
                rpc.role > Role.READER
                or not name.startswith(("List", "Lookup", "GetStats"))
                or "name" in rpc.request.DESCRIPTOR.fields_by_name
                or name == "ListKeyLimits"  # it is about one kind
            ):
                continue
            limited, full = [await client.send(name, b"", token=token) for token in ("READER1", "READER0")]
            assert (b"report" in full) is (b"mail.send" in limited) is (name != "ListWorkers"), name
            assert b"report" not in limited, name
        counted = [
            (await client.call("CountInstances", pb.CountInstancesRequest(), token=token)).count
            for token in ("READER0", "READER1")
        ]
        assert counted == [2, 1]
        for name in ("WaitInstances", "CancelInstances", "RetryInstances"):
            request = RPCS[name].request(query=pb.Query(all=True))
            assert await client.code(name, request, token="OPERATOR1") is DENIED
            assert await client.code(name, request, token="OPERATOR0") is OK


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize(
    ("name", "field"), [("LookupInstances", "instances"), ("LookupHistory", "entries"), ("LookupLogs", "lines")]
)
async def test_no_page_has_the_id_of_another_kind(name: str, field: str, limit: int, descending: bool) -> None:
    """Instances of one bulk have ids of one millisecond, so many pages begin and end within it."""
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        own, foreign = list[str](), set[str]()
        for kinds in (["report"] * 30, ["mail.send", "report", "report", "mail.send"], ["report"] * 20, ["mail.send"]):
            made = await node.schedule_many(node.job(kind).call("x") for kind in kinds)
            own += [one.id for one in made if one.kind == "mail.send"]
            foreign |= {one.id for one in made if one.kind == "report"}
        await node.wait()
        seen, cursors = dict[str, None](), list[str]()
        query = pb.Query(limit=limit, descending=descending)
        while not cursors or cursors[-1]:
            if cursors:
                query.cursor = cursors[-1]
            page = await client.call(name, RPCS[name].request(query=query), token="READER1")
            seen |= dict.fromkeys(one.uuid for one in getattr(page, field))
            cursors.append(page.cursor)
            assert len(set(cursors)) == len(cursors), "each page goes on"
        assert list(seen) == (own[::-1] if descending else own)
        assert not foreign & set(cursors)


async def test_put_schedule_tells_no_more_than_that_a_name_is_in_use() -> None:
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        await node.add_schedule(node.job("report").with_options(every="1h", name="taken").call("x"))
        options = pb.JobOptions(name="taken", cron="0 0 1 1 *")
        request = pb.PutScheduleRequest(job=pb.ScheduleJobRequest(kind="mail.send", arguments=["x"], options=options))
        with pytest.raises(grpc.aio.AioRpcError, match="give the schedule another name") as refused:
            await client.call("PutSchedule", request, token="OPERATOR1")
        assert refused.value.code() is DENIED
        assert "report" not in str(refused.value.details())
        assert (await node.lookup_schedule("taken")).kind == "report"


async def test_the_activity_has_no_rows_of_other_kinds() -> None:
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        slot = node.clock.time_us() // SLOT_US - 2
        rows = {kind: ActivityRow(1, 1) for kind in (*SECRETS, OTHER_KINDS)}
        await node._store.add_activity(ActivitySample(slot, rows))  # pyright: ignore[reportPrivateUsage]
        limited, full = [
            await client.call("GetActivity", pb.GetActivityRequest(minutes=1), token=token)
            for token in ("READER1", "READER0")
        ]
        assert [one.kind for one in limited.kinds] == ["mail.send"]
        assert [one.kind for one in full.kinds] == sorted(SECRETS)
        assert sum(full.others.completed) == 1
        assert list(limited.others.completed) == [0] * 6 == list(limited.others.started)


async def test_a_stream_of_events_leaves_out_other_kinds() -> None:
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        call = client.stream("Watch", pb.WatchRequest(), token="READER1")
        await call.initial_metadata()
        for kind in ("report", "mail.send"):
            await (await node.schedule(kind, SECRETS[kind])).result(10)
        seen = pb.WatchResponse.FromString(await call.read())
        assert seen.instance.kind == "mail.send"
        call.cancel()


async def test_the_id_of_another_kind_shows_nothing() -> None:
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        other, own = await _prepared(node, "report"), await _prepared(node, "mail.send")
        call = pb.ScheduleJobRequest(kind="mail.send", arguments=["x"], uuid=other)
        for name, request in (
            ("ScheduleJob", call),
            ("ScheduleJobs", pb.ScheduleJobsRequest(jobs=[call])),
            ("RetryInstance", pb.RetryInstanceRequest(uuid=own, new_uuid=other)),
            ("TriggerSchedule", pb.TriggerScheduleRequest(name="mail.send", new_uuid=other)),
        ):
            _, data = await _answer(client, name, request, "OPERATOR1")
            assert SECRETS["report"].encode() not in data, name
            assert b"report" not in data, name


@pytest.mark.parametrize("caller", ["OPERATOR0", "OPERATOR1", "ADMIN0"])
async def test_a_retry_is_repeated_after_the_old_instance_was_removed(caller: str) -> None:
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        old = {kind: await _prepared(node, kind) for kind in SECRETS}
        # the time of an id, in milliseconds, is in its first 48 bits
        latest = max(UUID(uuid).int for uuid in old.values())
        requests = {
            kind: pb.RetryInstanceRequest(uuid=uuid, new_uuid=str(UUID(int=latest + (1_000 << 80) + number)))
            for number, (kind, uuid) in enumerate(old.items())
        }
        for request in requests.values():
            await client.call("RetryInstance", request, token="ADMIN0")
            await (await node.lookup_instance(request.new_uuid)).wait(10)
        await node.clear_instances(Filter(before=datetime.fromtimestamp((latest >> 80) / 1_000 + 0.5, UTC)))
        assert set(old.values()).isdisjoint(one.id for one in await node.lookup_instances())

        repeated = await client.call("RetryInstance", requests["mail.send"], token=caller)
        assert repeated.instance.uuid == requests["mail.send"].new_uuid
        expected = UNKNOWN if caller == "OPERATOR1" else OK
        assert await client.code("RetryInstance", requests["report"], token=caller) is expected
        other = pb.RetryInstanceRequest(uuid=old["report"], new_uuid=requests["mail.send"].new_uuid)
        assert await client.code("RetryInstance", other, token=caller) is UNKNOWN


async def test_errors_name_no_other_kind() -> None:
    alias = Job("pay.run", say, aliases=("mail.pay",))
    async with served(*JOBS, alias, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        await _prepared(node, "report")
        unknown, renamed = pb.ScheduleJobRequest(kind="mail.nope"), pb.ScheduleJobRequest(kind="mail.pay")
        options = pb.JobOptions(name="report", cron="0 0 29 2 *")
        replacing = pb.ScheduleJobRequest(kind="mail.send", arguments=["x"], options=options)
        for call, expected in ((unknown, UNKNOWN), (renamed, DENIED), (replacing, DENIED)):
            requests: dict[str, Message] = {"PutSchedule": pb.PutScheduleRequest(job=call)}
            if call is not replacing:
                requests |= {"ScheduleJob": call, "ScheduleJobs": pb.ScheduleJobsRequest(jobs=[call])}
            for name, request in requests.items():
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.send(name, request.SerializeToString(), token="OPERATOR1")
                error = caught.value
                told = f"{error.details()} {error.trailing_metadata()}".replace("schedule 'report'", "")
                assert error.code() is expected, name
                assert not [kind for kind in ("report", "pay.run") if kind in told], (name, told)


async def test_an_alias_that_only_other_nodes_know_starts_no_other_kind() -> None:
    store = shared_url()
    cleaner = instance_cleaner().with_options(aliases=("mail.tidy",))
    mails, pay = Job("mail.send", say, aliases=("mail.post",)), Job("pay.run", say, aliases=("mail.pay",))
    async with (
        Node(store, jobs=[mails, pay, cleaner], name="worker"),
        served(store=store, workers=0, tokens=TOKENS) as (node, server),
        raw_client(server.target) as client,
    ):
        old = await node.schedule("mail.pay", "x")
        await old.wait(10)
        await node.add_schedule(Job("mail.pay").with_options(cron="0 0 29 2 *", name="paid").call("x"))

        def requests(kind: str) -> dict[str, Message]:
            call = pb.ScheduleJobRequest(kind=kind, arguments=["x"] if kind != "mail.tidy" else [])
            timed = pb.ScheduleJobRequest()
            timed.CopyFrom(call)
            timed.options.CopyFrom(pb.JobOptions(name=f"each {kind}", cron="0 0 29 2 *"))
            return {
                "ScheduleJob": call,
                "ScheduleJobs": pb.ScheduleJobsRequest(jobs=[call]),
                "PutSchedule": pb.PutScheduleRequest(job=timed),
            }

        again = {
            "RetryInstance": pb.RetryInstanceRequest(uuid=old.id),
            "RetryInstances": pb.RetryInstancesRequest(query=pb.Query(uuid=old.id)),
            "TriggerSchedule": pb.TriggerScheduleRequest(name="paid"),
        }
        for requested, token, expected in (
            (requests("mail.pay"), "OPERATOR1", DENIED),
            (again, "OPERATOR1", DENIED),
            (requests("mail.tidy"), "OPERATOR0", DENIED),
            (requests("mail.post"), "OPERATOR1", OK),
            (requests("mail.pay"), "OPERATOR0", OK),
            (again, "OPERATOR0", OK),
            (requests("mail.tidy"), "ADMIN0", OK),
        ):
            for name, request in requested.items():
                code, _ = await _answer(client, name, request, token)
                assert code is expected, (name, token, request)


@pytest.mark.parametrize(("token", "kinds"), [("READER0", ["mail.send", "report"]), ("READER1", ["mail.send"])])
async def test_the_list_of_nodes_shows_a_limited_token_its_kinds_only(token: str, kinds: list[str]) -> None:
    async with served(*JOBS, tokens=TOKENS) as (_, server), raw_client(server.target) as client:
        (node,) = (await client.call("ListNodes", pb.ListNodesRequest(), token=token)).nodes
        assert list(node.kinds) == kinds == sorted(node.signatures)
        assert bool(node.descriptors) is (token == "READER0")


async def test_a_schedule_of_another_kind_is_not_replaced() -> None:
    async with served(*JOBS, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        await _prepared(node, "report")
        request = request_of("PutSchedule", "mail.send", "")
        request.job.options.name = "report"
        for token in ("OPERATOR1", "ADMIN1"):
            code, data = await _answer(client, "PutSchedule", request, token)
            assert (code, (await node.lookup_schedule("report")).kind) == (DENIED, "report")
            assert SECRETS["report"].encode() not in data


class _ReplaceableTokens(Tokens):
    """Tokens that a test replaces."""

    def __init__(self, *tokens: Token) -> None:
        super().__init__(tokens)

    def replace(self, *tokens: Token) -> None:
        self._principals = Tokens(tokens)._principals


@pytest.mark.parametrize(
    "changed",
    [
        lambda: (),
        lambda: (Token.of("t", Role.READER, kinds=["mail.*"]),),
        lambda: (Token.of("t", Role.READER, until=datetime(2020, 1, 1, tzinfo=UTC)),),
    ],
    ids=["withdrawn", "limited", "expired"],
)
async def test_open_streams_and_waits_end_with_the_token(changed: Callable[[], tuple[Token, ...]]) -> None:
    tokens = _ReplaceableTokens(Token.of("t", Role.READER), Token.of("kept", Role.READER))
    async with served(*JOBS, tokens=tokens) as (node, server), raw_client(server.target) as client:
        later = await node.schedule(node.job("report").with_options(after=600), "x")
        watch, kept = (client.stream("Watch", pb.WatchRequest(), token=one) for one in ("t", "kept"))
        wait = client.start("WaitInstance", pb.WaitInstanceRequest(uuid=later.id), token="t")
        for one in (watch, kept):
            await one.initial_metadata()
        tokens.replace(*changed(), Token.of("kept", Role.READER))
        assert [await one.code() for one in (watch, wait)] == [Code.UNAUTHENTICATED] * 2
        assert "withdrawn" in await watch.details()
        assert not kept.done()
        kept.cancel()


async def test_a_token_that_has_expired_and_one_of_another_namespace() -> None:
    now = datetime.now(UTC)
    tokens = Tokens(
        [
            Token.of("old", Role.ADMIN, until=now - timedelta(seconds=1)),
            Token.of("new", Role.ADMIN, until=now + timedelta(hours=1)),
            Token.of("far", Role.ADMIN, namespaces=["elsewhere"]),
            Token.of("here", Role.ADMIN, namespaces=["elsewhere", "default"]),
        ]
    )
    async with served(*JOBS, tokens=tokens) as (_, server), raw_client(server.target) as client:
        codes = [
            await client.code("GetVersion", pb.VersionRequest(), token=one) for one in ("old", "new", "far", "here")
        ]
    assert codes == [Code.UNAUTHENTICATED, OK, DENIED, OK]


@pytest.mark.parametrize(
    ("kinds", "included"),
    [
        ((), ["mail", "mail.send", "x"]),
        (("mail.*",), ["mail.send"]),
        (("mail", "x"), ["mail", "x"]),
        (("*",), ["mail", "mail.send", "x"]),
        (("mail*",), ["mail", "mail.send"]),
    ],
)
def test_the_kinds_of_rights(kinds: tuple[str, ...], included: list[str]) -> None:
    rights = Rights(role=Role.READER, kinds=kinds)
    assert [kind for kind in ("mail", "mail.send", "x") if rights.include(kind)] == included


def test_a_line_of_rights_is_read_back() -> None:
    token = Token.of("t", Role.OPERATOR, "ci", kinds=["mail.*", "x"], namespaces=["a"], until=START)
    assert token.line().partition(token.digest)[2] == " ci kinds=mail.*,x namespaces=a until=2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    "field", ["kind=mail.*", "kinds=", "kinds=a,,b", "kinds=a*b", "until=tomorrow", "until=2026-01-01", "x=y"]
)
def test_a_field_that_cannot_be_read_opens_nothing(tmp_path: Any, field: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{Token.of('t', Role.ADMIN, 'me').line()} {field}\n")
    with pytest.raises(OptionError, match="line 1"):
        Tokens.load(path)
