"""A distributed job scheduler of equal peers, without a central server."""

from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .handles.blocking_child import BlockingChild
from .handles.blocking_context import BlockingContext
from .handles.blocking_flows import BlockingFlowInstance
from .handles.blocking_handles import BlockingInstance, BlockingSchedule
from .handles.child import Child
from .handles.context import Context
from .handles.entries import HistoryEntry, LogEntry
from .handles.flow_instance import FlowInstance
from .handles.instance import Event, Instance
from .handles.manager import Manager
from .handles.registered_job import RegisteredJob
from .handles.schedule import Backfill, FireEntry, Schedule, ScheduleView
from .handles.stats import Stats
from .handles.system_jobs import history_cleaner, instance_cleaner, log_cleaner
from .model.activity import Activity, Distribution, KindActivity
from .model.audit import AuditRecord
from .model.capabilities import Capabilities
from .model.clock import Clock, SystemClock
from .model.durable_errors import (
    ChildFailed,
    NotRunningError,
    SignalTimeout,
    StepLimitError,
    StepNameError,
    Suspended,
)
from .model.durations import Duration
from .model.ended import Ended
from .model.errors import (
    ArgumentError,
    AuthError,
    DecodeError,
    EncodeError,
    Fail,
    FlowFailed,
    JobCancelled,
    JobConflictError,
    JobFailed,
    JobProcessDied,
    JobTimedOut,
    LayoutError,
    MissingExtraError,
    NodeStateError,
    NodeStoppedError,
    NodeUnavailableError,
    OptionError,
    OwnershipLost,
    PayloadTooLargeError,
    PeerjobError,
    RemoteError,
    ResultTypeError,
    Retry,
    RowRefusedError,
    ScheduleError,
    StoreCommandError,
    StoreCredentialsError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreRefusedError,
    StoreUnavailableError,
    StoreUnconfirmedError,
    TableError,
    TlsMismatchError,
    UnauthenticatedError,
    UnknownInstanceError,
    UnknownKindError,
    UnknownNodeError,
    UnknownScheduleError,
)
from .model.extras import Extra, needs_extra
from .model.findings import Finding, Severity
from .model.firing import FireOutcome, Leader, Overlap, Term
from .model.flow import Flow, Member
from .model.injected import INJECTED, PLACEHOLDER, Depends
from .model.job import Call, Job, JobGroup, job
from .model.limit import KeyLimit, Limit
from .model.policy import Backoff, Finished, Policy, Priority, Recovered
from .model.query import Filter, Query, ResultPage
from .model.record import LogLine, NodeInfo, NodeView, StoreLimits
from .model.secret import Secret
from .model.signal import Signal
from .model.spec import ErrorInfo, Progress
from .model.state import Level, State
from .model.stored_limit import KeyLimitView, LimitSupport, LimitView
from .model.timing import Jitter
from .model.worker import Worker
from .node.manager.blocking import BlockingManager
from .node.node import Node
from .node.observe.node_stats import NodeStats
from .node.observe.probes import Probe, ProbeAnswer
from .store.base import Elections, Store
from .version import __version__

if TYPE_CHECKING:
    from .model.explain import ClockChange, Explanation, explain
    from .model.rights import Principal, Rights, Role
    from .node.observe.metrics import Metrics, MetricsServer, serve_metrics
    from .remote.client.client import Client
    from .remote.scaler.server import ScalerServer
    from .remote.server.jwt import Jwt
    from .remote.server.server import Server
    from .remote.server.tokens import Token, Tokens
    from .remote.wire.tls import ClientTls, ServerTls
    from .transfer.exporting import export_namespace
    from .transfer.importing import Imported, import_namespace

__all__ = [
    "INJECTED",
    "PLACEHOLDER",
    "Activity",
    "ArgumentError",
    "AuditRecord",
    "AuthError",
    "Backfill",
    "Backoff",
    "BlockingChild",
    "BlockingContext",
    "BlockingFlowInstance",
    "BlockingInstance",
    "BlockingManager",
    "BlockingSchedule",
    "Call",
    "Capabilities",
    "Child",
    "ChildFailed",
    "Client",
    "ClientTls",
    "Clock",
    "ClockChange",
    "Context",
    "DecodeError",
    "Depends",
    "Distribution",
    "Duration",
    "Elections",
    "EncodeError",
    "Ended",
    "ErrorInfo",
    "Event",
    "Explanation",
    "Fail",
    "Filter",
    "Finding",
    "Finished",
    "FireEntry",
    "FireOutcome",
    "Flow",
    "FlowFailed",
    "FlowInstance",
    "HistoryEntry",
    "Imported",
    "Instance",
    "Jitter",
    "Job",
    "JobCancelled",
    "JobConflictError",
    "JobFailed",
    "JobGroup",
    "JobProcessDied",
    "JobTimedOut",
    "Jwt",
    "KeyLimit",
    "KeyLimitView",
    "KindActivity",
    "LayoutError",
    "Leader",
    "Level",
    "Limit",
    "LimitSupport",
    "LimitView",
    "LogEntry",
    "LogLine",
    "Manager",
    "Member",
    "Metrics",
    "MetricsServer",
    "MissingExtraError",
    "Node",
    "NodeInfo",
    "NodeStateError",
    "NodeStats",
    "NodeStoppedError",
    "NodeUnavailableError",
    "NodeView",
    "NotRunningError",
    "OptionError",
    "Overlap",
    "OwnershipLost",
    "PayloadTooLargeError",
    "PeerjobError",
    "Policy",
    "Principal",
    "Priority",
    "Probe",
    "ProbeAnswer",
    "Progress",
    "Query",
    "Recovered",
    "RegisteredJob",
    "RemoteError",
    "ResultPage",
    "ResultTypeError",
    "Retry",
    "Rights",
    "Role",
    "RowRefusedError",
    "ScalerServer",
    "Schedule",
    "ScheduleError",
    "ScheduleView",
    "Secret",
    "Server",
    "ServerTls",
    "Severity",
    "Signal",
    "SignalTimeout",
    "State",
    "Stats",
    "StepLimitError",
    "StepNameError",
    "Store",
    "StoreCommandError",
    "StoreCredentialsError",
    "StoreError",
    "StoreFullError",
    "StoreLimits",
    "StorePermissionError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "StoreUnconfirmedError",
    "Suspended",
    "SystemClock",
    "TableError",
    "Term",
    "TlsMismatchError",
    "Token",
    "Tokens",
    "UnauthenticatedError",
    "UnknownInstanceError",
    "UnknownKindError",
    "UnknownNodeError",
    "UnknownScheduleError",
    "Worker",
    "__version__",
    "explain",
    "export_namespace",
    "history_cleaner",
    "import_namespace",
    "instance_cleaner",
    "job",
    "log_cleaner",
    "serve_metrics",
]

# these names are imported at first use: gRPC takes 13 MB and noticeable time, and a node without a server or metrics
# does not need gRPC
_LATER: dict[str, tuple[str, Extra | None]] = {
    "Client": ("remote.client.client", "grpc"),
    "ClientTls": ("remote.wire.tls", "grpc"),
    "ClockChange": ("model.explain", None),
    "Explanation": ("model.explain", None),
    "Imported": ("transfer.importing", None),
    "Jwt": ("remote.server.jwt", "jwt"),
    "Metrics": ("node.observe.metrics", "metrics"),
    "MetricsServer": ("node.observe.metrics", "metrics"),
    "Principal": ("model.rights", None),
    "Rights": ("model.rights", None),
    "Role": ("model.rights", None),
    "ScalerServer": ("remote.scaler.server", "grpc"),
    "Server": ("remote.server.server", "grpc"),
    "ServerTls": ("remote.wire.tls", "grpc"),
    "Token": ("remote.server.tokens", "grpc"),
    "Tokens": ("remote.server.tokens", "grpc"),
    "explain": ("model.explain", None),
    "export_namespace": ("transfer.exporting", None),
    "import_namespace": ("transfer.importing", None),
    "serve_metrics": ("node.observe.metrics", "metrics"),
}
_REQUIRED: dict[Extra, str] = {"grpc": "grpc", "jwt": "jwt", "metrics": "prometheus_client"}

# set `peerjob` as the module of each public error: stored errors and tracebacks show the name that users import
for _name in __all__:
    _public = globals().get(_name)
    if isinstance(_public, type) and issubclass(_public, BaseException):
        _public.__module__ = __name__


# a type checker that sees this function accepts every name, also a mistyped one
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, extra = _LATER[name]
        with needs_extra(extra, name) if extra else nullcontext():
            value: object = getattr(import_module(f".{module}", __name__), name)
        return value


def __dir__() -> list[str]:
    # help(peerjob) gets every listed name, so names that need a missing extra are not listed
    missing = {extra for extra, package in _REQUIRED.items() if find_spec(package) is None}
    return sorted(name for name in __all__ if name not in _LATER or _LATER[name][1] not in missing)
