"""The wait for hints. While the node is idle, it ends with a claim in the same round trip.

A hint about work and the claim that follows would be two round trips. An idle node therefore sends its next claim
ahead: the store runs it when the wait ends. The claim has one instance at most, because the number of free workers can
change during the wait. The claim loop claims more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from peerjob.model.clock import Clock
from peerjob.model.errors import LayoutError, StoreUnavailableError
from peerjob.model.record import Claimed, Hint, Want
from peerjob.store.base import Store

from .in_flight import HintedClaim, InFlight
from .outcomes import handed_back
from .pool import Pool
from .run import HeldClaims, Run
from .unsent_reports import UnsentReports

logger = logging.getLogger("peerjob.node")

HINTS_WAIT = 5.0
"""Most seconds that one call waits for hints. After a change of incarnation, the next call uses the new incarnation."""
BUSY_WAIT = 0.25
"""Most seconds of the first wait while a body runs; each further one is twice as long, up to HINTS_WAIT."""
SLEEP_WAIT = 0.005
"""Most seconds after a hint about work until the next wait begins. A claim loop that has nothing to send by then lets
the next wait end with a claim, too."""
MISSED_HINTS = (Hint("work", ""), Hint("cancel", ""), Hint("schedule", ""), Hint("leader", ""))
"""Hints that a call without an answer can have taken. The readers of other hints ask the store each second anyway."""
REFUSED_WAIT = 30.0
"""Seconds without claims ahead after the store refused one for good."""


class HintWait:
    """Waits for the hints of this node.

    `expects_changes` tells whether hints about other changes than new work are likely. They would end the wait with a
    claim for nothing, so the node then claims after the hint. `take` gets the claims of an incarnation that came with a
    hint.
    """

    def __init__(
        self,
        clock: Clock,
        store: Store,
        kinds: Callable[[], tuple[str, ...]],
        held_claims: HeldClaims,
        in_flight: InFlight,
        unsent_reports: UnsentReports,
        pool: Pool,
        expects_changes: Callable[[], bool],
        take: Callable[[str, Claimed], None],
    ) -> None:
        self._clock = clock
        self._store = store
        self._kinds = kinds
        self._held_claims = held_claims
        self._in_flight = in_flight
        self._unsent_reports = unsent_reports
        self._pool = pool
        self._expects_changes = expects_changes
        self._take = take
        self._serial = 0
        self._busy_wait = BUSY_WAIT
        self._expects_work = False
        """Whether the last hints told of work."""
        self._not_before = 0.0
        """When claims go ahead again, after the store refused one."""

    async def next_hints(self) -> Sequence[Hint]:
        """Wait for hints, up to HINTS_WAIT; takes the claims that come with them.

        A hint about work whose claim came with it is left out.
        """
        if (failed := self._in_flight.hinted_claim) is not None:
            return await self._repeat(failed)
        claim = await self._compose()
        if claim is not None:
            self._in_flight.hinted_claim = claim
            return await self._wait(claim)
        hints = await self._store.next_hints(self._held_claims.incarnation, self._plain_wait())
        self._expects_work = any(hint.what == "work" for hint in hints)
        return hints

    # -- claims ------------------------------------------------------------------------------------------------------

    async def _compose(self) -> HintedClaim | None:
        """The claim for the next wait; None if the node is busy."""
        if self._expects_work and not self._in_flight.claim_loop_sleeps.is_set() and not self._expects_changes():
            try:
                async with asyncio.timeout(SLEEP_WAIT):
                    await self._in_flight.claim_loop_sleeps.wait()
            except TimeoutError:
                return None
        # a body that blocks the event loop would keep the instance of a claim ahead from its peers
        if (
            self._pool.running
            or not self._in_flight.claim_loop_sleeps.is_set()
            or self._expects_changes()
            or self._clock.elapsed() < self._not_before
        ):
            return None
        kinds = self._kinds()
        limit, caps = self._pool.claimable(kinds)
        if not limit:
            return None
        self._serial += 1
        incarnation = self._held_claims.incarnation
        # a suspect runs alone, and another one can start during the wait: the claim loop claims suspects
        want = Want(kinds=caps, limit=1, suspects=False)
        return HintedClaim(incarnation, kinds, want, f"{incarnation}/hint/{self._serial:012}")

    def _plain_wait(self) -> float:
        """Seconds of a wait without a claim. It is short while a body runs, so that a claim goes ahead soon after."""
        if not self._pool.running or self._expects_work:
            self._busy_wait = BUSY_WAIT
        wait = min(self._busy_wait, HINTS_WAIT) if self._pool.running else HINTS_WAIT
        self._busy_wait = 2 * wait
        return wait

    async def _wait(self, claim: HintedClaim) -> Sequence[Hint]:
        try:
            async with claim.limit:
                claim.waits = True
                hints, claimed = await self._store.claim_on_hint(
                    claim.incarnation, claim.want, request=claim.request, timeout=HINTS_WAIT
                )
        except TimeoutError:
            if not claim.limit.expired():
                raise
            return await self._repeat(claim)
        except asyncio.CancelledError:
            self._in_flight.end_hinted_claim()  # the node ends, and hands back what the store has claimed for it
            raise
        except (LayoutError, StoreUnavailableError):
            raise
        except Exception as error:  # noqa: BLE001  # no refused claim may keep the node from its hints
            self._refused(error)
            return MISSED_HINTS
        finally:
            claim.waits = False
        if claim.given_up:
            return (*hints, *await self._repeat(claim))
        self._in_flight.end_hinted_claim()
        self._expects_work = any(hint.what == "work" for hint in hints)
        if claimed is not None:
            self._taken(claim, claimed)
            if claimed.claims:
                return [hint for hint in hints if hint.what != "work"]
        return hints

    async def _repeat(self, claim: HintedClaim) -> Sequence[Hint]:
        """Take what the store has claimed for a call that failed or was withdrawn, and let it claim nothing more."""
        want = Want(kinds=claim.want.kinds, limit=0, suspects=False)
        try:
            hints, claimed = await self._store.claim_on_hint(claim.incarnation, want, request=claim.request, timeout=0)
        except (LayoutError, StoreUnavailableError):
            raise
        except Exception as error:  # noqa: BLE001  # as in `_wait`
            self._refused(error)
            return MISSED_HINTS
        self._in_flight.end_hinted_claim()
        if claimed is not None and (claimed.claims or claimed.dead):
            self._taken(claim, claimed)
        return (*hints, *MISSED_HINTS)

    def _taken(self, claim: HintedClaim, claimed: Claimed) -> None:
        if claimed.claims:
            self._in_flight.claim_loop_sleeps.clear()
        if not claimed.claims or claim.decide():
            self._take(claim.incarnation, claimed)
        elif claim.given_up:  # the thread of the lease has not returned them yet
            for run in (Run(hinted, claim.incarnation, 0.0) for hinted in claimed.claims):
                self._unsent_reports.add(run, handed_back(run, "the event loop of the node was blocked"))

    def _refused(self, error: Exception) -> None:
        self._in_flight.end_hinted_claim()  # if the store has claimed an instance, the reconciler hands it back
        self._not_before = self._clock.elapsed() + REFUSED_WAIT
        logger.warning("the store refuses a claim with a hint; the node claims after hints for a while: %s", error)
