"""What tests of jobs, nodes and stores are made of.

`VirtualClock`, `running_node`, `advance`, `drain` and `scheduled` are for an application's own tests of its jobs; they
need nothing but peerjob. `peerjob.testing.store_conformance` is the suite that every store must pass; it needs pytest.
"""

from .clock import VirtualClock
from .helpers import advance, drain, running_node, scheduled

__all__ = ["VirtualClock", "advance", "drain", "running_node", "scheduled"]
