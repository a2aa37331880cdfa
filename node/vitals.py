"""How a node is, in numbers that it knows without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """The state of one running node at one moment."""

    workers: int
    busy: int
    """Workers that run an instance."""
    stuck: int
    """Workers whose body was told to end, and has not for 5 s."""
    held: int
    """Claims that wait here for a worker."""
    lease_age: float
    """Seconds since the store last answered a renewal."""
    trusted: bool
    """Whether the lease certainly holds, so that bodies may be started."""
    ahead: float
    """Seconds that this node's clock is ahead of the store's, or of its peers'."""
    leads: bool
    term: int
    """The number of the present term, whoever leads; 0 when no leader is known."""
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    """Role → errors since the node was started, such as those of a store that was away."""
