"""Tools for tests of jobs, nodes and stores.

An application tests its jobs with the names in `__all__`, which need only peerjob. The plugin `peerjob_pytest` gives
the same as fixtures. Read in this order:

- `eager`: run one job at once, without a node. Its replacements for the parts of a node are in `stand_ins`.
- `helpers`: `running_node` and `blocking_node` start one node on virtual time.
- `cluster`: `TestCluster` runs several nodes, with faults.
- `clock`: `VirtualClock`. `loop` drives the timers of an event loop by it.
- `factories`: instances, nodes and peers, for tests of stores.
- `store_conformance`: the suite that each store must pass; it needs pytest.
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
