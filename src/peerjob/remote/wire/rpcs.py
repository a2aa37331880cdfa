# pyright: reportPrivateUsage=false
"""The table of RPCs: for each one its messages, the role that a caller needs, and whether a client may send it again.

An RPC that maps to one verb of the manager is a `VerbRpc`. Its row also says how criteria become a request and back,
and how the result becomes a response and back. The server and the client derive both sides of such a call from the
row. Every other RPC has a handler in `remote.server` and a method in `remote.client`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message
from msgspec import structs

from peerjob.handles.manager import Manager
from peerjob.handles.schedule import Backfill, ScheduleView
from peerjob.model.activity import MAX_ACTIVITY_MINUTES, Activity
from peerjob.model.clock import aware_us, to_datetime, to_us
from peerjob.model.errors import OptionError
from peerjob.model.firing import Leader, ScheduleRow
from peerjob.model.query import Filter, Query
from peerjob.model.rights import Role
from peerjob.model.stored_limit import InstanceLimits, KeyLimitPage, LimitPage
from peerjob.proto.job.v1 import service_pb2 as pb

from .activity import activity_fields, activity_of
from .cluster import audit_message, audit_of, leader_message, leader_of, node_message, node_of
from .jobs import job_message, job_of
from .limits import (
    instance_limits_fields,
    instance_limits_of,
    key_page_fields,
    key_page_of,
    limit_page_fields,
    limit_page_of,
)
from .queries import filter_message, filter_of, query_message, query_of
from .schedules import backfill_of, row_of, schedule_message
from .values import given, given_moment, stamp, stamp_us

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
C = TypeVar("C")
D = TypeVar("D")
S = TypeVar("S")
R = TypeVar("R")

SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]


class Resend(Enum):
    """Whether a client may send a request again if the node may have received it and did not answer."""

    ALWAYS = "always"
    """Resend: the request only reads, or has no second effect, since the request contains the id of a new instance."""
    UNLESS_SILENT = "unless silent"
    """Resend only if the connection broke: a hanging node can run the first request late, and undo newer changes."""
    NEVER = "never"
    """Do not resend: a second request would have a second effect."""


class Scope(Enum):
    """The effect on an RPC if the token of its caller is limited to some kinds."""

    OPEN = "open"
    """None: the RPC is about no kind."""
    INSTANCE = "instance"
    """An instance of another kind is unknown."""
    SCHEDULE = "schedule"
    """A schedule of another kind is unknown."""
    KIND = "kind"
    """The RPC is refused for another kind."""
    QUERY = "query"
    """The query must name one of the kinds, or an instance; otherwise the RPC is refused."""
    FILTERED = "filtered"
    """The answer leaves out other kinds. A query for another kind is refused."""
    WHOLE = "whole"
    """The RPC is refused, since it concerns all kinds."""


@dataclass(frozen=True)
class Rpc(Generic[Q, A]):
    """One RPC of the service."""

    name: str
    request: type[Q]
    response: type[A]
    role: Role
    resend: Resend
    waits: bool = field(default=False, kw_only=True)
    """Whether the RPC waits for an event. A server that stops ends the wait immediately."""

    @property
    def path(self) -> str:
        return f"/{SERVICE.full_name}/{self.name}"

    @property
    def acts(self) -> bool:
        """Whether a call of the RPC is recorded in the audit log."""
        return self.role > Role.READER and not self.name.startswith("List")


@dataclass(frozen=True)
class Fields(Generic[C, D]):
    """Writes a value as fields of a message, and reads it back."""

    write: Callable[[C], dict[str, Any]]
    read: Callable[[Any], D]


@dataclass(frozen=True)
class VerbRpc(Rpc[Any, Any], Generic[C, D, S, R]):
    """An RPC that maps to one verb of the manager."""

    criteria: Fields[C, D]
    verb: Callable[[Manager, D], Awaitable[S]]
    result: Fields[S, R]
    changes_schedule: bool = field(default=False, kw_only=True)
    """The caller needs the right to use the kind of the schedule that the request names."""


def _by_verb(
    name: str,
    role: Role,
    resend: Resend,
    criteria: Fields[C, D],
    verb: Callable[[Manager, D], Awaitable[S]],
    result: Fields[S, R],
    *,
    changes_schedule: bool = False,
) -> VerbRpc[C, D, S, R]:
    request, response = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
    return VerbRpc(name, request, response, role, resend, criteria, verb, result, changes_schedule=changes_schedule)


# -- criteria and results --------------------------------------------------------------------------------------------


def _field(name: str, _: type[C], default: C | None = None) -> Fields[C, C]:
    """One message field, whose value needs no conversion; an optional one that is not set has the default."""
    return Fields(lambda value: {name: value}, lambda message: given(message, name, default))


def _fields(*names: str, **defaults: Any) -> Fields[tuple[Any, ...], tuple[Any, ...]]:
    """Several such fields, in the order of a verb's arguments."""
    return Fields(
        lambda values: dict(zip(names, values, strict=True)),
        lambda message: tuple(given(message, name, defaults.get(name)) for name in names),
    )


def _list(name: str, write: Callable[[C], Message], read: Callable[[Any], C]) -> Fields[list[C], list[C]]:
    """A repeated field, each value of which is a message."""
    return Fields(
        lambda values: {name: map(write, values)}, lambda message: [read(each) for each in getattr(message, name)]
    )


def _range_of(message: pb.BackfillRequest) -> tuple[str, datetime, datetime]:
    if not message.HasField("start") or not message.HasField("end"):
        raise OptionError("end" if message.HasField("start") else "start", None, "a time")
    return message.name, given_moment("start", message.start), given_moment("end", message.end)


_NOTHING = Fields[None, None](lambda _: {}, lambda _: None)
_QUERY = Fields[Query | None, Query](
    lambda query: {"query": query_message(query)}, lambda message: query_of(message.query)
)
_FILTER = Fields[Filter | None, Filter](
    lambda chosen: {"filter": filter_message(chosen)}, lambda message: filter_of(message.filter)
)
_UUID, _NAME = _field("uuid", str), _field("name", str)
_REQUEST, _NAME_AND_NOTE = _fields("uuid", "request_uuid"), _fields("name", "note")
_COUNTED_NAME = _fields("name", "count", count=5)
_RANGE = Fields[tuple[str, datetime, datetime], tuple[str, datetime, datetime]](
    lambda given: {
        "name": given[0],
        "start": stamp(aware_us("start", given[1])),
        "end": stamp(aware_us("end", given[2])),
    },
    _range_of,
)
_KIND, _KEYS_OF = _fields("kind", "schemas"), _fields("kind", "prefix", "waiting_only", "cursor")
_JOBS = _list("jobs", job_message, job_of)
_COUNT, _CANCELLED, _REMOVED = _field("count", int), _field("cancelled", bool), _field("removed", bool)
_MOVED = _field("moved", bool)
_NODES = _list("nodes", node_message, node_of)
_LEADER = Fields[Leader | None, Leader | None](
    lambda leader: {"leader": None if leader is None else leader_message(leader)},
    lambda message: leader_of(message.leader) if message.HasField("leader") else None,
)
_MINUTES, _LIMIT = _field("minutes", int, MAX_ACTIVITY_MINUTES), _field("limit", int, 100)
_CURSOR = Fields[str | None, str | None](lambda cursor: {"cursor": cursor}, lambda message: given(message, "cursor"))
_ACTIVITY = Fields[Activity, Activity](activity_fields, activity_of)
_AUDIT = _list("records", audit_message, audit_of)
_SETTING = Fields[dict[str, Any], dict[str, Any]](
    lambda setting: setting,
    lambda message: {field.name: given(message, field.name) for field in message.DESCRIPTOR.fields},
)
_LIMITS = Fields[LimitPage, LimitPage](limit_page_fields, limit_page_of)
_KEY_LIMITS = Fields[KeyLimitPage, KeyLimitPage](key_page_fields, key_page_of)
_INSTANCE_LIMITS = Fields[InstanceLimits, InstanceLimits](instance_limits_fields, instance_limits_of)
_SCHEDULE = Fields[ScheduleView, ScheduleRow](
    lambda view: {"schedule": schedule_message(view)}, lambda message: row_of(message.schedule)
)
_TIMES = Fields[Sequence[datetime], list[datetime]](
    lambda times: {"times": [stamp(to_us(message)) for message in times]},
    lambda message: [to_datetime(stamp_us(time)) for time in message.times],
)
_BACKFILL = Fields[Backfill, Backfill](structs.asdict, backfill_of)

# -- the table -------------------------------------------------------------------------------------------------------

_READER, _OPERATOR, _ADMIN = Role.READER, Role.OPERATOR, Role.ADMIN
_ALWAYS, _UNLESS_SILENT, _NEVER = Resend.ALWAYS, Resend.UNLESS_SILENT, Resend.NEVER

GET_VERSION = Rpc("GetVersion", pb.VersionRequest, pb.VersionResponse, _READER, _ALWAYS)
LIST_REGISTERED_JOBS = _by_verb(
    "ListRegisteredJobs",
    _READER,
    _ALWAYS,
    _KIND,
    lambda to, given: to.registered_jobs(given[0], schemas=given[1]),
    _JOBS,
)

SCHEDULE_JOB = Rpc("ScheduleJob", pb.ScheduleJobRequest, pb.ScheduleJobResponse, _OPERATOR, _ALWAYS)
SCHEDULE_JOBS = Rpc("ScheduleJobs", pb.ScheduleJobsRequest, pb.ScheduleJobsResponse, _OPERATOR, _ALWAYS)
SCHEDULE_FLOW = Rpc("ScheduleFlow", pb.ScheduleFlowRequest, pb.ScheduleFlowResponse, _OPERATOR, _ALWAYS)

GET_INSTANCE = Rpc("GetInstance", pb.GetInstanceRequest, pb.GetInstanceResponse, _READER, _ALWAYS)
LOOKUP_INSTANCES = Rpc("LookupInstances", pb.LookupInstancesRequest, pb.LookupInstancesResponse, _READER, _ALWAYS)
LOOKUP_HISTORY = Rpc("LookupHistory", pb.LookupHistoryRequest, pb.LookupHistoryResponse, _READER, _ALWAYS)
LOOKUP_LOGS = Rpc("LookupLogs", pb.LookupLogsRequest, pb.LookupLogsResponse, _READER, _ALWAYS)
READ_LOGS = Rpc("ReadLogs", pb.ReadLogsRequest, pb.ReadLogsResponse, _READER, _ALWAYS, waits=True)
COUNT_INSTANCES = _by_verb("CountInstances", _READER, _ALWAYS, _QUERY, lambda to, query: to.count(query), _COUNT)
GET_STATS = Rpc("GetStats", pb.GetStatsRequest, pb.GetStatsResponse, _READER, _ALWAYS)
GET_ACTIVITY = _by_verb("GetActivity", _READER, _ALWAYS, _MINUTES, lambda to, minutes: to.activity(minutes), _ACTIVITY)

WAIT_INSTANCE = Rpc("WaitInstance", pb.WaitInstanceRequest, pb.WaitInstanceResponse, _READER, _ALWAYS, waits=True)
WAIT_INSTANCES = Rpc("WaitInstances", pb.WaitInstancesRequest, pb.WaitInstancesResponse, _READER, _ALWAYS, waits=True)
WATCH = Rpc("Watch", pb.WatchRequest, pb.WatchResponse, _READER, _ALWAYS, waits=True)
WATCH_INSTANCE = Rpc("WatchInstance", pb.WatchInstanceRequest, pb.WatchInstanceResponse, _READER, _ALWAYS, waits=True)

CANCEL_INSTANCES = Rpc("CancelInstances", pb.CancelInstancesRequest, pb.CancelInstancesResponse, _OPERATOR, _NEVER)
CANCEL_INSTANCE = _by_verb(
    "CancelInstance", _OPERATOR, _NEVER, _UUID, lambda to, uuid: to.cancel_instance(uuid), _CANCELLED
)
RUN_NOW = _by_verb("RunNow", _OPERATOR, _ALWAYS, _REQUEST, lambda to, given: to.run_now(given[0], id=given[1]), _MOVED)
SIGNAL = Rpc("Signal", pb.SignalRequest, pb.SignalResponse, _OPERATOR, _ALWAYS)
GET_STEPS = Rpc("GetSteps", pb.GetStepsRequest, pb.GetStepsResponse, _READER, _ALWAYS)
RETRY_INSTANCES = Rpc("RetryInstances", pb.RetryInstancesRequest, pb.RetryInstancesResponse, _OPERATOR, _ALWAYS)
RETRY_INSTANCE = Rpc("RetryInstance", pb.RetryInstanceRequest, pb.RetryInstanceResponse, _OPERATOR, _ALWAYS)
CLEAR_INSTANCES = _by_verb(
    "ClearInstances", _ADMIN, _NEVER, _FILTER, lambda to, chosen: to.clear_instances(chosen), _COUNT
)
CLEAR_HISTORY = _by_verb("ClearHistory", _ADMIN, _NEVER, _FILTER, lambda to, chosen: to.clear_history(chosen), _COUNT)
CLEAR_LOGS = _by_verb("ClearLogs", _ADMIN, _NEVER, _FILTER, lambda to, chosen: to.clear_logs(chosen), _COUNT)
CLEAR = _by_verb("Clear", _ADMIN, _NEVER, _NOTHING, lambda to, _: to.clear(), _NOTHING)

PUT_SCHEDULE = Rpc("PutSchedule", pb.PutScheduleRequest, pb.PutScheduleResponse, _OPERATOR, _UNLESS_SILENT)
LIST_SCHEDULES = Rpc("ListSchedules", pb.ListSchedulesRequest, pb.ListSchedulesResponse, _READER, _ALWAYS)
GET_SCHEDULE = _by_verb("GetSchedule", _READER, _ALWAYS, _NAME, lambda to, name: to.lookup_schedule(name), _SCHEDULE)
PAUSE_SCHEDULE = _by_verb(
    "PauseSchedule",
    _OPERATOR,
    _UNLESS_SILENT,
    _NAME_AND_NOTE,
    lambda to, given: to.pause_schedule(*given),
    _SCHEDULE,
    changes_schedule=True,
)
RESUME_SCHEDULE = _by_verb(
    "ResumeSchedule",
    _OPERATOR,
    _UNLESS_SILENT,
    _NAME,
    lambda to, name: to.resume_schedule(name),
    _SCHEDULE,
    changes_schedule=True,
)
TRIGGER_SCHEDULE = Rpc("TriggerSchedule", pb.TriggerScheduleRequest, pb.TriggerScheduleResponse, _OPERATOR, _ALWAYS)
REMOVE_SCHEDULE = _by_verb(
    "RemoveSchedule",
    _OPERATOR,
    _NEVER,
    _NAME,
    lambda to, name: to.remove_schedule(name),
    _REMOVED,
    changes_schedule=True,
)
BACKFILL = _by_verb(
    "Backfill", _OPERATOR, _ALWAYS, _RANGE, lambda to, given: to.backfill(*given), _BACKFILL, changes_schedule=True
)
LIST_FIRES = Rpc("ListFires", pb.ListFiresRequest, pb.ListFiresResponse, _READER, _ALWAYS)
NEXT_FIRES = _by_verb("NextFires", _READER, _ALWAYS, _COUNTED_NAME, lambda to, given: to.next_fires(*given), _TIMES)
EXPLAIN_CRON = Rpc("ExplainCron", pb.ExplainCronRequest, pb.ExplainCronResponse, _READER, _ALWAYS)

LIST_NODES = _by_verb("ListNodes", _READER, _ALWAYS, _NOTHING, lambda to, _: to.nodes(), _NODES)
GET_LEADER = _by_verb("GetLeader", _READER, _ALWAYS, _NOTHING, lambda to, _: to.leader(), _LEADER)
LIST_AUDIT = _by_verb("ListAudit", _ADMIN, _ALWAYS, _LIMIT, lambda to, limit: to.audit(limit), _AUDIT)
# `_limit_page` and the like are verbs for this table, and for `limits`, `key_limits` and `why`, which use them
LIST_LIMITS = _by_verb("ListLimits", _READER, _ALWAYS, _CURSOR, lambda to, cursor: to._limit_page(cursor), _LIMITS)
LIST_KEY_LIMITS = _by_verb(
    "ListKeyLimits", _READER, _ALWAYS, _KEYS_OF, lambda to, given: to._key_limit_page(*given), _KEY_LIMITS
)
EXPLAIN_LIMITS = _by_verb(
    "ExplainLimits", _READER, _ALWAYS, _UUID, lambda to, uuid: to._limits_of(uuid), _INSTANCE_LIMITS
)
SET_LIMIT = _by_verb("SetLimit", _ADMIN, _UNLESS_SILENT, _SETTING, lambda to, given: to.set_limit(**given), _NOTHING)
SET_KEY_LIMIT = _by_verb(
    "SetKeyLimit", _ADMIN, _UNLESS_SILENT, _SETTING, lambda to, given: to.set_key_limit(**given), _NOTHING
)
PAUSE_KIND = _by_verb("PauseKind", _ADMIN, _UNLESS_SILENT, _SETTING, lambda to, given: to.pause_kind(**given), _NOTHING)
RESUME_KIND = _by_verb(
    "ResumeKind", _ADMIN, _UNLESS_SILENT, _SETTING, lambda to, given: to.resume_kind(**given), _NOTHING
)
LIST_WORKERS = Rpc("ListWorkers", pb.ListWorkersRequest, pb.ListWorkersResponse, _READER, _ALWAYS)
RESIZE_WORKERS = Rpc("ResizeWorkers", pb.ResizeWorkersRequest, pb.ResizeWorkersResponse, _ADMIN, _NEVER)
DRAIN = Rpc("Drain", pb.DrainRequest, pb.DrainResponse, _ADMIN, _NEVER, waits=True)

UNDRAIN = Rpc("Undrain", pb.UndrainRequest, pb.UndrainResponse, _ADMIN, _NEVER)

RPCS: dict[str, Rpc[Any, Any]] = {row.name: row for row in list(globals().values()) if isinstance(row, Rpc)}
"""All RPCs of the table above, by name."""

SCOPES: dict[str, Scope] = {
    rpc.name: scope
    for scope, rpcs in {
        Scope.OPEN: (GET_VERSION, EXPLAIN_CRON, GET_LEADER),
        Scope.INSTANCE: (
            GET_INSTANCE,
            READ_LOGS,
            WAIT_INSTANCE,
            WATCH_INSTANCE,
            CANCEL_INSTANCE,
            RUN_NOW,
            RETRY_INSTANCE,
            SIGNAL,
            GET_STEPS,
            EXPLAIN_LIMITS,
        ),
        Scope.SCHEDULE: (
            GET_SCHEDULE,
            LIST_FIRES,
            NEXT_FIRES,
            PAUSE_SCHEDULE,
            RESUME_SCHEDULE,
            TRIGGER_SCHEDULE,
            REMOVE_SCHEDULE,
            BACKFILL,
        ),
        Scope.KIND: (SCHEDULE_JOB, SCHEDULE_JOBS, SCHEDULE_FLOW, PUT_SCHEDULE),
        Scope.QUERY: (WAIT_INSTANCES, CANCEL_INSTANCES, RETRY_INSTANCES),
        Scope.FILTERED: (
            LIST_REGISTERED_JOBS,
            LOOKUP_INSTANCES,
            LOOKUP_HISTORY,
            LOOKUP_LOGS,
            COUNT_INSTANCES,
            GET_STATS,
            GET_ACTIVITY,
            WATCH,
            LIST_SCHEDULES,
            LIST_NODES,
            LIST_WORKERS,
            LIST_LIMITS,
            LIST_KEY_LIMITS,
        ),
        Scope.WHOLE: (
            LIST_AUDIT,
            CLEAR_INSTANCES,
            CLEAR_HISTORY,
            CLEAR_LOGS,
            CLEAR,
            RESIZE_WORKERS,
            DRAIN,
            UNDRAIN,
            SET_LIMIT,
            SET_KEY_LIMIT,
            PAUSE_KIND,
            RESUME_KIND,
        ),
    }.items()
    for rpc in cast("tuple[Rpc[Any, Any], ...]", rpcs)
}
"""By the name of the RPC. A server does not start if an RPC is missing here."""
