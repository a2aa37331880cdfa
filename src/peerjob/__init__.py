"""A distributed job scheduler of equal peers, without a central server."""

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
from .policy import Backoff, Policy, Priority, Recovered
from .query import Filter, Query
from .record import Capabilities, NodeView, StoreLimits
from .schedules import Backfill, FireEntry, Schedule, ScheduleView
from .spec import ErrorInfo, Progress
from .state import Level, State
from .store.base import Elections, Store
from .system import history_cleaner, instance_cleaner, log_cleaner
from .timing import Jitter
from .version import __version__
from .worker import Worker

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
    "FireEntry",
    "FireOutcome",
    "HistoryEntry",
    "Instance",
    "Jitter",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobGroup",
    "JobTimedOut",
    "LayoutError",
    "Leader",
    "Level",
    "LogEntry",
    "Manager",
    "Node",
    "NodeStateError",
    "NodeView",
    "OptionError",
    "Overlap",
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
    "Schedule",
    "ScheduleError",
    "ScheduleView",
    "State",
    "Stats",
    "Store",
    "StoreError",
    "StoreFullError",
    "StoreLimits",
    "StoreUnavailableError",
    "SystemClock",
    "Term",
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
]
