"""Where the contract leaves a choice: what may happen comes in, and what happens comes out.

This store chooses in the plainest way. To compare it with another engine, tests choose as that engine did.
"""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.record import Want


class Choices:
    """The choices of a store."""

    def claimed(self, ids: Sequence[str], want: Want) -> Sequence[str]:
        """The instances that a claim takes, of those that it may take, in the order of the queue.

        A store can end a claim early, and can keep the order within a window only (`Capabilities.order`).
        """
        return ids

    def dead(self, incarnations: Sequence[str]) -> Sequence[str]:
        """The incarnations that a reap marks as dead, of those whose leases have expired."""
        return incarnations

    def left(self, ids: Sequence[str]) -> Sequence[str]:
        """The claims that a leave hands back, of those that its incarnation holds. A reap can take back the others."""
        return ids

    def reaped(self, ids: Sequence[str], limit: int) -> Sequence[str]:
        """The claims that a reap takes back, up to `limit` of those that dead incarnations hold."""
        return ids[:limit]

    def fire_us(self, number: int, now_us: int) -> int:
        """The time of the fire with this number in its call: each fire is a transaction of its own."""
        return now_us

    def removed(self, ids: Sequence[str], limit: int) -> Sequence[str]:
        """The instances that a command removes, up to `limit` of those that it may remove."""
        return ids[:limit]
