"""A cluster of real nodes on virtual time, to which a test does what production does to nodes."""

from .cluster import TestCluster
from .faults import Faults
from .journal import BodyRun, TraceEvent

__all__ = ["BodyRun", "Faults", "TestCluster", "TraceEvent"]
