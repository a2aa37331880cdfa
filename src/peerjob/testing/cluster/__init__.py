"""A cluster of real nodes on virtual time, to which a test does what production does to nodes."""

from .faults import Faults
from .journal import BodyRun, TraceEvent
from .simulated import TestCluster

__all__ = ["BodyRun", "Faults", "TestCluster", "TraceEvent"]
