"""What tests of jobs, nodes and stores are made of.

`eager`, `running_node`, `blocking_node`, `TestCluster` and the names beside them are for an application's own tests of
its jobs; they need nothing but peerjob. `peerjob.testing.store_conformance` is the suite
that every store must pass; it needs pytest.
"""

from .clock import VirtualClock
from .cluster import BodyRun, Faults, TestCluster, TraceEvent
from .eager import Eager, EagerAttempt, EagerRun, Verdict, eager, eager_async
from .helpers import advance, blocking_node, clock_of, drain, running_node, scheduled

__all__ = [
    "BodyRun",
    "Eager",
    "EagerAttempt",
    "EagerRun",
    "Faults",
    "TestCluster",
    "TraceEvent",
    "Verdict",
    "VirtualClock",
    "advance",
    "blocking_node",
    "clock_of",
    "drain",
    "eager",
    "eager_async",
    "running_node",
    "scheduled",
]
