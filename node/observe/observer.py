"""The interface by which metrics and traces learn of the work of a node."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.firing import Fire, FireRecord
from peerjob.model.record import Ack, Claim, Reaped
from peerjob.node.work.outbox import Entry


class Observer:
    """Is called on the event loop of the node, between two steps of work. A method must be fast and must not raise.

    Each method does nothing until it is overridden.
    """

    def round_ended(
        self, seconds: float, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]
    ) -> None:
        """The store answered one round of the claim loop after `seconds`: it committed `entries` and gave `claims`."""

    def cancelled(self, kind: str) -> None:
        """A caller cancelled an instance through this node."""

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        """This node took claims back from a dead peer."""

    def fired(self, fire: Fire, record: FireRecord) -> None:
        """This node, as the leader, recorded nominal times."""
