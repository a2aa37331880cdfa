"""Compares the claims that the store has for this incarnation with the claims that the node holds.

The two differ for a moment while a claim or a commit is on its way. A difference counts only after two answered rounds
of the claim loop: the first one may have been on its way when the difference was seen. A node that is full or drained
has no rounds, so a comparison while no request is under way counts as one.

The claims of the store can be older than those of the node: an event loop that lags compares late. So the rounds count
from the last moment at which the node took or ended the claim. A comparison after that moment can be late once: the
store reads the claims of the next one after the answer to this one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from peerjob.model.record import Claim, Held

from .in_flight import HintedClaim, InFlight
from .outcomes import handed_back
from .run import HeldClaims, Run
from .unsent_reports import UnsentReports, Waker

logger = logging.getLogger("peerjob.node")


ROUNDS = 2
"""A difference counts after so many rounds."""
MAX_ROUNDS = 6
"""While the answer to a claim with a hint is missing, an unknown claim counts only after so many rounds."""


class _Since(NamedTuple):
    rounds: int
    """Answered rounds of the claim loop, and comparisons without one."""
    claim: HintedClaim | None
    """The claim that waited for a hint."""


class Reconciler:
    """Hands back claims whose answer was lost, and cancels runs whose claim is gone."""

    def __init__(
        self, held_claims: HeldClaims, in_flight: InFlight, unsent_reports: UnsentReports, waker: Waker
    ) -> None:
        self._held_claims = held_claims
        self._in_flight = in_flight
        self._unsent_reports = unsent_reports
        self._waker = waker
        self._suspected: dict[tuple[str, int], _Since] = {}
        """Id and fence of each claim that only one side holds → the first comparison."""
        self._answered = in_flight.rounds
        """`InFlight.rounds` at the last comparison."""
        self._quiet = 0
        """How many comparisons found that the claim loop had nothing to send since the comparison before."""

    def compare(self, held: Sequence[Held] | None) -> None:
        """Compare claims. `held` are the claims that the store has; None if store and node hold the same claims."""
        if held is None:
            self._suspected.clear()
        else:
            self._compare(held)
        self._held_claims.changed = set() if self._suspected else None

    def _compare(self, held: Sequence[Held]) -> None:
        for key in self._held_claims.changed or ():
            self._suspected.pop(key, None)
        stored = {(claim.id, claim.fence) for claim in held}
        known = {(run.claim.id, run.claim.fence): run for run in self._held_claims.runs()}
        now = self._now()
        self._suspected = {key: self._suspected.get(key, now) for key in stored ^ known.keys()}
        for key, since in list(self._suspected.items()):
            run = known.get(key)
            rounds = now.rounds - since.rounds
            if rounds < ROUNDS:
                self._waker.hint()
                continue
            if run is None and since.claim is not None and since.claim is now.claim:
                since.claim.withdraw()  # its answer can still bring the instance
                if rounds < MAX_ROUNDS:
                    self._waker.hint()
                    continue
                since.claim.decide()  # an answer that comes later is ignored
            del self._suspected[key]
            if run is None:
                self._hand_back(*key)
            elif not run.ended:
                run.lost = True
                run.cancel("lost")

    def _now(self) -> _Since:
        in_flight = self._in_flight
        if in_flight.rounds == self._answered and not in_flight.unacknowledged:
            self._quiet += 1
        self._answered = in_flight.rounds
        return _Since(in_flight.rounds + self._quiet, in_flight.hinted_claim)

    def _hand_back(self, id: str, fence: int) -> None:
        logger.warning("instance %s: the answer to its claim was lost; the node hands it back", id)
        claim = Claim(
            id=id, kind="", fence=fence, spec=b"", priority=0, due_us=0, attempts=0, crashes=0, losses=0, at_us=0
        )
        run = Run(claim, self._held_claims.incarnation, 0.0)
        self._unsent_reports.add(run, handed_back(run, "the answer to the claim was lost"))
