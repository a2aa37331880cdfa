"""The parts of a running node that probes and statistics read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from peerjob.cluster.election import Election
from peerjob.cluster.lease import Lease
from peerjob.cluster.role import BackgroundRole
from peerjob.node.work.claim_loop import ClaimLoop
from peerjob.node.work.pool import Pool


class ObservedRuntime(Protocol):
    """The parts of a `NodeRuntime` that probes and statistics read."""

    joined: bool
    lease: Lease
    election: Election
    claim_loop: ClaimLoop
    pool: Pool

    @property
    def roles(self) -> Sequence[BackgroundRole]: ...
