"""What tests of jobs, nodes and stores are made of.

`VirtualClock`, `running_node`, `blocking_node`, `advance`, `drain`, `scheduled` and `TestCluster` are for an
application's own tests of its jobs; they need nothing but peerjob. `peerjob.testing.store_conformance` is the suite
that every store must pass; it needs pytest.
"""

from .clock import VirtualClock
from .cluster import BodyRun, Faults, TestCluster, TraceEvent
from .helpers import advance, blocking_node, drain, running_node, scheduled

__all__ = [
    "BodyRun",
    "Faults",
    "TestCluster",
    "TraceEvent",
    "VirtualClock",
    "advance",
    "blocking_node",
    "drain",
    "running_node",
    "scheduled",
]
