"""A distributed job scheduler of equal peers, without a central server."""

from importlib import import_module
from typing import TYPE_CHECKING

from .blocking import BlockingInstance, BlockingSchedule
from .clock import Clock, SystemClock
from .context import Context
from .durations import Duration
from .errors import (
    ArgumentError,
    AuthError,
    DecodeError,
    Fail,
    JobCancelled,
    JobConflictError,
    JobFailed,
    JobTimedOut,
    LayoutError,
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
    ScheduleError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    StoreUnconfirmedError,
    TlsMismatchError,
    UnauthenticatedError,
    UnknownInstanceError,
    UnknownKindError,
    UnknownScheduleError,
)
from .explain import Explanation, explain
from .firing import FireOutcome, Leader, Overlap, Term
from .injected import INJECTED, PLACEHOLDER, Depends
from .instance import HistoryEntry, Instance, LogEntry
from .job import Call, Job, JobGroup, job
from .manager import Event, Manager, ResultPage, Stats
from .node.blocking import BlockingManager
from .node.node import Node
from .node.probes import Probe, ProbeAnswer
from .policy import Backoff, Finished, Policy, Priority, Recovered
from .query import Filter, Query
from .record import Capabilities, NodeView, StoreLimits
from .schedules import Backfill, FireEntry, Schedule, ScheduleView
from .secret import Secret
from .spec import ErrorInfo, Progress
from .state import Level, State
from .store.base import Elections, Store
from .system import history_cleaner, instance_cleaner, log_cleaner
from .timing import Jitter
from .version import __version__
from .worker import Worker

if TYPE_CHECKING:
    from .node.client.client import Client
    from .node.client.jobs import RegisteredJob
    from .node.metrics import Metrics, MetricsServer, serve_metrics
    from .node.scaler.server import ScalerServer
    from .node.server.listener import Server
    from .node.server.roles import Role, Token, Tokens
    from .node.wire.tls import ClientTls, ServerTls

__all__ = [
    "INJECTED",
    "PLACEHOLDER",
    "ArgumentError",
    "AuthError",
    "Backfill",
    "Backoff",
    "BlockingInstance",
    "BlockingManager",
    "BlockingSchedule",
    "Call",
    "Capabilities",
    "Client",
    "ClientTls",
    "Clock",
    "Context",
    "DecodeError",
    "Depends",
    "Duration",
    "Elections",
    "ErrorInfo",
    "Event",
    "Explanation",
    "Fail",
    "Filter",
    "Finished",
    "FireEntry",
    "FireOutcome",
    "HistoryEntry",
    "Instance",
    "Jitter",
    "Job",
    "JobCancelled",
    "JobConflictError",
    "JobFailed",
    "JobGroup",
    "JobTimedOut",
    "LayoutError",
    "Leader",
    "Level",
    "LogEntry",
    "Manager",
    "Metrics",
    "MetricsServer",
    "Node",
    "NodeStateError",
    "NodeStoppedError",
    "NodeUnavailableError",
    "NodeView",
    "OptionError",
    "Overlap",
    "OwnershipLost",
    "PayloadTooLargeError",
    "PeerjobError",
    "Policy",
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
    "Role",
    "ScalerServer",
    "Schedule",
    "ScheduleError",
    "ScheduleView",
    "Secret",
    "Server",
    "ServerTls",
    "State",
    "Stats",
    "Store",
    "StoreError",
    "StoreFullError",
    "StoreLimits",
    "StoreRefusedError",
    "StoreUnavailableError",
    "StoreUnconfirmedError",
    "SystemClock",
    "Term",
    "TlsMismatchError",
    "Token",
    "Tokens",
    "UnauthenticatedError",
    "UnknownInstanceError",
    "UnknownKindError",
    "UnknownScheduleError",
    "Worker",
    "__version__",
    "explain",
    "history_cleaner",
    "instance_cleaner",
    "job",
    "log_cleaner",
    "serve_metrics",
]

# gRPC takes 13 MB and a while to import, the Prometheus client less, which a node that serves nobody need not pay for
_LATER = {
    "Client": "node.client.client",
    "ClientTls": "node.wire.tls",
    "Metrics": "node.metrics",
    "MetricsServer": "node.metrics",
    "RegisteredJob": "node.client.jobs",
    "Role": "node.server.roles",
    "ScalerServer": "node.scaler.server",
    "Server": "node.server.listener",
    "ServerTls": "node.wire.tls",
    "Token": "node.server.roles",
    "Tokens": "node.server.roles",
    "serve_metrics": "node.metrics",
}


def __getattr__(name: str) -> object:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f".{module}", __name__), name)
    return found
