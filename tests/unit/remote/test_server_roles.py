"""The rights of callers, by token and by certificate."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from peerjob import AuthError, Job, instance_cleaner
from peerjob.model.errors import OptionError, UnauthenticatedError
from peerjob.model.rights import Role
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server.access import NEEDED_ROLES, check_call, token_in
from peerjob.remote.server.tokens import Token, Tokens
from peerjob.remote.wire.errors import error_in
from peerjob.remote.wire.rpcs import RPCS, SERVICE
from support.rpc import RawClient, health_client, raw_client, served

Code = grpc.StatusCode
WORK = Job("work", lambda: None)
TOKENS = Tokens([Token.of("read", Role.READER), Token.of("act", Role.OPERATOR, "ci"), Token.of("all", Role.ADMIN)])


def test_every_rpc_has_a_role_and_what_only_looks_needs_the_least() -> None:
    assert {path.rpartition("/")[2] for path, one in NEEDED_ROLES.items() if one is not Role.READER} <= {
        method.name for method in SERVICE.methods
    }
    by_role = {role: {path.rpartition("/")[2] for path, one in NEEDED_ROLES.items() if one is role} for role in Role}

    unlisted = {method.name for method in SERVICE.methods} - by_role[Role.READER] - by_role[Role.OPERATOR]
    assert unlisted == {
        "Clear",
        "ClearInstances",
        "ClearHistory",
        "ClearLogs",
        "ListAudit",
        "ResizeWorkers",
        "Drain",
        "Undrain",
        "SetLimit",
        "SetKeyLimit",
        "PauseKind",
        "ResumeKind",
    }
    looking = ("Get", "List", "Lookup", "Read", "Count", "Wait", "Watch", "Next", "Explain")
    assert all(name.startswith(looking) for name in by_role[Role.READER] - {"ServerReflectionInfo"})
    assert not any(name.startswith(looking) for name in by_role[Role.OPERATOR])


@pytest.mark.parametrize(
    ("token", "codes"),
    [
        (None, [Code.UNAUTHENTICATED] * 4),
        ("wrong", [Code.UNAUTHENTICATED] * 4),
        ("", [Code.UNAUTHENTICATED] * 4),
        ("read", [Code.OK, Code.OK, Code.PERMISSION_DENIED, Code.PERMISSION_DENIED]),
        ("act", [Code.OK, Code.OK, Code.OK, Code.PERMISSION_DENIED]),
        ("all", [Code.OK, Code.OK, Code.OK, Code.OK]),
    ],
)
async def test_a_token_opens_what_its_role_may(token: str | None, codes: list[Code]) -> None:
    async with served(WORK, tokens=TOKENS) as (_, server), raw_client(server.target) as client:
        requests: list[tuple[str, Any]] = [
            ("LookupInstances", pb.LookupInstancesRequest()),
            ("ReadLogs", pb.ReadLogsRequest(uuid="01900000-0000-7000-8000-000000000000")),
            ("ScheduleJob", pb.ScheduleJobRequest(kind="work")),
            ("Clear", pb.ClearRequest()),
        ]

        assert [await client.code(name, request, token=token) for name, request in requests] == codes


@pytest.mark.parametrize(
    ("given", "role"),
    [
        ([], None),
        (["Bearer read"], Role.READER),
        (["bearer  all "], Role.ADMIN),
        (["Basic all"], None),
        (["all"], None),
        (["Bearer"], None),
        # a client or a proxy adds its own behind what is there
        (["Bearer all", "Bearer read"], Role.READER),
        (["Bearer read", "Bearer all"], Role.ADMIN),
        (["Bearer all", "Bearer wrong"], None),
        (["Bearer wrong", "Bearer all"], Role.ADMIN),
    ],
)
def test_the_last_token_of_a_call_counts(given: list[str], role: Role | None) -> None:
    metadata = [("other", "Bearer all"), *(("authorization", value) for value in given), ("last", "Bearer all")]
    assert role_in(metadata) is role


def role_in(metadata: list[tuple[str, str]]) -> Role | None:
    try:
        found = TOKENS.find(token_in(metadata))
    except UnauthenticatedError:
        return None
    return None if found is None else found.rights.role


async def test_nothing_but_the_health_is_open_without_a_token() -> None:
    """Of all that a server serves, an RPC that is no message of ours included."""
    paths = ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/grpc.channelz.v1.Channelz/GetServers"]
    paths += [f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods]
    async with served(WORK, tokens=TOKENS) as (_, server), grpc.aio.insecure_channel(server.target) as channel:
        for path in paths:
            # a stub of streams sends its message apart, and that fails if the refusal comes first
            method: Any = channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(b"")
            assert refused.value.code() in (Code.UNAUTHENTICATED, Code.UNIMPLEMENTED), path
            assert refused.value.code() is Code.UNAUTHENTICATED or "channelz" in path


async def test_a_refusal_names_the_role_that_is_needed() -> None:
    async with served(WORK, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        denied = await _refusal(client, "read")
        unknown = await _refusal(client, "wrong")

        assert (type(denied), str(denied)) == (
            AuthError,
            "ScheduleJob needs the role operator, and this token has reader",
        )
        assert isinstance(unknown, UnauthenticatedError)
        assert await node.count() == 0


async def _refusal(client: RawClient, token: str) -> Exception | None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call("ScheduleJob", pb.ScheduleJobRequest(kind="work"), token=token)
    return error_in(tuple(caught.value.trailing_metadata()))


async def test_health_needs_no_token() -> None:
    async with served(WORK, tokens=TOKENS) as (_, server), health_client(server.target) as health:
        answer = await health.Check(health_pb2.HealthCheckRequest())

        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_file_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    lines = [Token.of("s3cret", Role.OPERATOR, "the night shift").line(), Token.of("ü", Role.READER).line()]
    file.write_text("# who may call\n\n" + "\n".join(lines) + "\n")

    tokens = Tokens.load(file)

    assert len(tokens) == 2
    found = [tokens.find(one) for one in ("s3cret", "ü", "x")]
    assert [None if one is None else one.rights.role for one in found] == [Role.OPERATOR, Role.READER, None]
    assert [None if one is None else one.name for one in found[:1]] == ["the night shift"]
    assert "s3cret" not in file.read_text()


@pytest.mark.parametrize(
    "line", ["reader", "boss " + "0" * 64, "reader abc", "reader " + "g" * 64, "reader " + "0" * 62]
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# first\n{line}\n")

    with pytest.raises(OptionError, match="line 2"):
        Tokens.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nowhere"):
        Tokens.load(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["/job.v1.JobService/NewInThisRelease", "/some.other.Service/Look", ""])
@pytest.mark.parametrize("token", ["read", "act", "all"])
def test_a_path_that_is_not_listed_is_closed_to_all(path: str, token: str) -> None:
    principal = TOKENS.find(token)
    assert principal is not None
    with pytest.raises(AuthError, match="no token"):
        check_call(path, principal, "default")


@pytest.mark.parametrize(("namespace", "allowed"), [("prod", True), ("production", False), ("pro", False)])
def test_a_token_for_a_namespace_opens_no_other(namespace: str, allowed: bool) -> None:
    principal = Token.of("x", Role.ADMIN, namespaces=("dev", "prod")).principal
    path = RPCS["GetVersion"].path
    if allowed:
        check_call(path, principal, namespace)
        return
    with pytest.raises(AuthError, match=f"no rights in namespace '{namespace}'"):
        check_call(path, principal, namespace)


async def test_kinds_of_the_system_need_an_admin() -> None:
    cleaner = instance_cleaner().with_options(aliases=["tidy"])
    async with served(cleaner, WORK, tokens=TOKENS) as (node, server), raw_client(server.target) as client:
        kind = cleaner.kind
        old = await node.schedule(kind, older_than="1h")
        await old.wait(5)
        span = {"start": pb.BackfillRequest().start, "end": pb.BackfillRequest().end}
        requests: list[tuple[str, Any]] = [
            ("ScheduleJob", pb.ScheduleJobRequest(kind=kind)),
            ("ScheduleJob", pb.ScheduleJobRequest(kind="tidy")),
            ("ScheduleJob", pb.ScheduleJobRequest(kind="system.of_another_node", allow_unknown=True)),
            ("ScheduleJobs", pb.ScheduleJobsRequest(jobs=[pb.ScheduleJobRequest(kind=one) for one in ("work", kind)])),
            ("PutSchedule", pb.PutScheduleRequest(job=_put(kind, "mine"))),
            ("PutSchedule", pb.PutScheduleRequest(job=_put("work", kind))),
            ("PauseSchedule", pb.PauseScheduleRequest(name=kind)),
            ("ResumeSchedule", pb.ResumeScheduleRequest(name=kind)),
            ("TriggerSchedule", pb.TriggerScheduleRequest(name=kind)),
            ("Backfill", pb.BackfillRequest(name=kind, **span)),
            ("RemoveSchedule", pb.RemoveScheduleRequest(name=kind)),
            ("RetryInstance", pb.RetryInstanceRequest(uuid=old.id)),
            ("RetryInstances", pb.RetryInstancesRequest(query=pb.Query(all=True))),
        ]
        assert [await client.code(name, one, token="act") for name, one in requests] == [Code.PERMISSION_DENIED] * 13
        codes = [await client.code(name, one, token="all") for name, one in requests]
        assert Code.PERMISSION_DENIED not in codes
        assert codes[:2] == [Code.OK] * 2
        ordinary = pb.ScheduleJobRequest(kind="work")
        assert await client.code("ScheduleJob", ordinary, token="act") is Code.OK
        assert await client.code("RemoveSchedule", pb.RemoveScheduleRequest(name="none"), token="act") is Code.OK


def _put(kind: str, name: str) -> pb.ScheduleJobRequest:
    return pb.ScheduleJobRequest(kind=kind, options=pb.JobOptions(name=name, cron="0 0 * * *"))
