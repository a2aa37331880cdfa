"""A cluster of real nodes in one process, on virtual time, with faults that a test asks for.

Read in this order:

- `cluster`: `TestCluster`, the class that tests use. Its base classes are `operations` (kill, pause, partition, skew),
  `cluster_nodes` (start, find and stop nodes) and `assertions`.
- `cluster_node`: one start of a node, with a clock (`clocks`) and links to store and coordinator (`connections`).
  Its tasks (`node_tasks`) can stand still or vanish, as a process can.
- `faults`: a layer over any store, on which calls fail, arrive late or run twice.
- `journal`: a record of all events, for assertions and traces.
- `time_jumps`: skips stretches of virtual time in which the nodes only poll.
"""

from .cluster import TestCluster
from .faults import Faults
from .journal import BodyRun, TraceEvent

__all__ = ["BodyRun", "Faults", "TestCluster", "TraceEvent"]
