"""Who hears of what a node does, without taking part in it: metrics and the like."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.firing import Fire, FireRecord
from peerjob.model.record import Ack, Claim, Reaped
from peerjob.node.work.outbox import Entry


class Observer:
    """Is told on the node's own loop, in the midst of its work: so it is quick, and never raises.

    Each method does nothing until it is overridden.
    """

    def round_ended(
        self, seconds: float, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]
    ) -> None:
        """The store answered one round of the claim loop after `seconds`: it committed `entries` and gave `claims`."""

    def cancelled(self, kind: str) -> None:
        """An instance was cancelled through this node."""

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        """This node took claims back from a dead peer."""

    def fired(self, fire: Fire, record: FireRecord) -> None:
        """This node, as the leader, accounted for nominal times."""
