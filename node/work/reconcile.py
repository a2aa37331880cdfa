"""Compares the claims that the store has for this incarnation with those that the node knows.

They differ for a moment whenever a claim or a commit is on its way, so a difference counts only when it has lasted
over a whole turn that began after it was first seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peerjob.model.record import Claim, Held

from .claim_loop import ClaimLoop
from .held_claims import HeldClaims
from .run import Run


class Reconciler:
    """Finds claims whose reply was lost, and runs whose claim is gone."""

    def __init__(self, *, held_claims: HeldClaims, claim_loop: ClaimLoop, hand_back: Callable[[Run], None]) -> None:
        self._held_claims = held_claims
        self._claim_loop = claim_loop
        self._hand_back = hand_back
        self._suspected: dict[tuple[str, int], int] = {}

    def compare(self, held: Sequence[Held] | None) -> None:
        """`held` is what the store has; None: both sides hold the same."""
        if held is None:
            self._suspected.clear()
            return
        theirs = {(one.id, one.fence) for one in held}
        ours = {(run.claim.id, run.claim.fence): run for run in self._held_claims.runs()}
        differing = theirs ^ ours.keys()
        rounds = self._claim_loop.rounds
        self._suspected = {one: self._suspected.get(one, rounds) for one in differing}
        for one, since in list(self._suspected.items()):
            # two answered turns: the first may have been on its way when the difference was seen
            if rounds - since < 2:
                self._claim_loop.hint()
                continue
            del self._suspected[one]
            run = ours.get(one)
            if run is not None:
                if not run.ended:
                    run.lost = True
                    run.cancel("lost")
            else:
                self._hand_back(_stranded(one, self._claim_loop))


def _stranded(one: tuple[str, int], claim_loop: ClaimLoop) -> Run:
    id, fence = one
    claim = Claim(id=id, kind="", fence=fence, spec=b"", priority=0, due_us=0, attempts=0, crashes=0, losses=0, at_us=0)
    return Run(claim, claim_loop.incarnation, 0.0)
