"""A distributed job scheduler of equal peers, without a central server."""

from .blocking import BlockingInstance
from .clock import Clock, SystemClock
from .context import Context
from .durations import Duration
from .errors import (
    ArgumentError,
    AuthError,
    DecodeError,
    Fail,
    JobCancelled,
    JobFailed,
    JobTimedOut,
    LayoutError,
    NodeStateError,
    OptionError,
    OwnershipLost,
    PayloadTooLargeError,
    PeerjobError,
    Retry,
    ScheduleError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    UnknownInstanceError,
    UnknownKindError,
)
from .explain import Explanation, explain
from .injected import INJECTED, PLACEHOLDER, Depends
from .instance import HistoryEntry, Instance, LogEntry
from .job import Call, Job, JobGroup, job
from .manager import Event, Manager, ResultPage, Stats
from .node.blocking import BlockingManager
from .node.node import Node
from .policy import Backoff, Policy, Priority, Recovered
from .query import Filter, Query
from .record import Capabilities, NodeView, StoreLimits
from .spec import ErrorInfo, Progress
from .state import Level, State
from .store.base import Store
from .timing import Jitter
from .version import __version__
from .worker import Worker

__all__ = [
    "INJECTED",
    "PLACEHOLDER",
    "ArgumentError",
    "AuthError",
    "Backoff",
    "BlockingInstance",
    "BlockingManager",
    "Call",
    "Capabilities",
    "Clock",
    "Context",
    "DecodeError",
    "Depends",
    "Duration",
    "ErrorInfo",
    "Event",
    "Explanation",
    "Fail",
    "Filter",
    "HistoryEntry",
    "Instance",
    "Jitter",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobGroup",
    "JobTimedOut",
    "LayoutError",
    "Level",
    "LogEntry",
    "Manager",
    "Node",
    "NodeStateError",
    "NodeView",
    "OptionError",
    "OwnershipLost",
    "PayloadTooLargeError",
    "PeerjobError",
    "Policy",
    "Priority",
    "Progress",
    "Query",
    "Recovered",
    "ResultPage",
    "Retry",
    "ScheduleError",
    "State",
    "Stats",
    "Store",
    "StoreError",
    "StoreFullError",
    "StoreLimits",
    "StoreUnavailableError",
    "SystemClock",
    "UnknownInstanceError",
    "UnknownKindError",
    "Worker",
    "__version__",
    "explain",
    "job",
]
