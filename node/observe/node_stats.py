"""The state of a node in numbers, from what this process knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peerjob.node.runtime import NodeRuntime


@dataclass(frozen=True, kw_only=True)
class NodeStats:
    """The state of one running node at one moment."""

    workers: int
    busy: int
    """Workers that run an instance."""
    stuck: int
    """Workers that a body still occupies 5 s after it was told to end, or that processors occupy for over 5 s."""
    intake: str
    """Whether the node takes work: "active", "draining" or "drained"."""
    held: int
    """Claims of this node that wait for a free worker."""
    lease_age: float
    """Seconds since the store last answered a renewal."""
    trusted: bool
    """Whether the node trusts its lease; without trust, no body starts."""
    ahead: float
    """Seconds by which the clock of this node is ahead of the store's clock or of the peers' clocks."""
    leads: bool
    term: int
    """The number of the current term; 0 if no leader is known."""
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    """Role → errors since the node started, such as those of a store that did not answer."""


def node_stats_of(runtime: NodeRuntime) -> NodeStats:
    """The state of a node now."""
    pool, leader = runtime.pool, runtime.election.leader
    return NodeStats(
        workers=pool.size,
        busy=pool.running,
        stuck=pool.stuck,
        intake=runtime.intake.state,
        held=pool.waiting,
        lease_age=runtime.lease.age,
        trusted=runtime.lease.trusted,
        ahead=runtime.lease.time.ahead_us / 1_000_000,
        leads=runtime.election.is_leader,
        term=0 if leader is None else leader.term.number,
        failures={role.name: role.failures for role in (*runtime.roles, runtime.claim_loop)}
        | {"lease": runtime.lease.failures},
    )
