"""How a node is, in numbers that it knows without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peerjob.node.runtime import NodeRuntime


@dataclass(frozen=True, kw_only=True)
class NodeStats:
    """The state of one running node at one moment."""

    workers: int
    busy: int
    """Workers that run an instance."""
    stuck: int
    """Workers whose body was told to end, or whose processors go on, for over 5 s."""
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


def node_stats_of(runtime: NodeRuntime) -> NodeStats:
    """The state of a runtime now."""
    pool, leader = runtime.pool, runtime.election.leader
    return NodeStats(
        workers=pool.size,
        busy=pool.running,
        stuck=pool.stuck,
        held=pool.waiting,
        lease_age=runtime.lease.age,
        trusted=runtime.lease.trusted,
        ahead=runtime.lease.time.ahead_us / 1_000_000,
        leads=runtime.election.is_leader,
        term=0 if leader is None else leader.term.number,
        failures={role.name: role.failures for role in (*runtime.roles, runtime.claim_loop)}
        | {"lease": runtime.lease.failures},
    )
