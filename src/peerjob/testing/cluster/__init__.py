"""A cluster of real nodes on virtual time, to which a test does what production does to nodes."""

from .journal import TraceEvent
from .simulated import TestCluster

__all__ = ["TestCluster", "TraceEvent"]
