"""The requests of a node that the store has not answered: those of the claim loop, and the claim that waits for a hint.

The claim loop and the wait for hints add and end their own requests. Each other part asks here whether an answer is
missing, so no part needs to know both.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque

import msgspec

from peerjob.model.record import Want

from .outcomes import Entry
from .unsent_reports import UnsentReports


class StoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the store: outcomes to commit, a claim, or both."""

    incarnation: str
    entries: list[Entry]
    want: Want | None
    request: str
    reduced: int = 0
    """How often the claim loop made the only outcome of this request smaller, because the store refused the outcome."""
    apart: bool = False
    """Whether this is a part of a refused request. The store can have committed some outcomes before the refusal."""

    @property
    def alone(self) -> bool:
        """Whether the request is a single outcome without a claim."""
        return len(self.entries) == 1 and self.want is None


class HintedClaim:
    """A claim that the store runs when the wait for hints ends."""

    def __init__(self, incarnation: str, kinds: tuple[str, ...], want: Want, request: str) -> None:
        self.incarnation = incarnation
        self.kinds = kinds
        self.want = want
        self.request = request
        self.limit = asyncio.timeout(None)
        self.waits = False
        self.given_up = False
        """Whether the thread of the lease withdraws it, because the event loop is blocked."""
        self._undecided = threading.Lock()
        self._loop = asyncio.get_running_loop()

    def withdraw(self) -> None:
        """End the wait before its time."""
        if self.waits:
            self.waits = False
            self.limit.reschedule(asyncio.get_running_loop().time())

    def decide(self) -> bool:
        """Whether this call is the first one, in any thread. Its caller takes what the store claims, or returns it."""
        return self._undecided.acquire(blocking=False)

    def give_up(self) -> bool:
        """Whether the thread of the lease withdraws the claim; False if another part has decided on the claim."""
        if not self.given_up and self.decide():
            self.given_up = True
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self.withdraw)
        return self.given_up


class InFlight:
    """The requests in flight, and how many rounds of the claim loop the store has answered."""

    def __init__(self, unsent_reports: UnsentReports) -> None:
        self._unsent_reports = unsent_reports
        self.requests: deque[StoreRequest] = deque()
        """The requests of the claim loop: a single request, or the parts of a refused request."""
        self.rounds = 0
        """Rounds that the store answered. The reconciler counts rounds to find claims whose answer was lost."""
        self.claim_loop_sleeps = asyncio.Event()
        """Set while the claim loop sleeps, because it has nothing to send."""
        self.hinted_claim: HintedClaim | None = None
        """The claim that waits for a hint; None if there is none, or its answer has come."""
        self._hinted_claim_ended = asyncio.Event()

    @property
    def unacknowledged(self) -> bool:
        """Whether an outcome is not in the store yet, or an answer to a request of the claim loop is missing."""
        return self._unsent_reports.awaited or bool(self.requests)

    # -- the claim that waits for a hint -----------------------------------------------------------------------------

    def end_hinted_claim(self) -> None:
        """Forget the claim: its answer is known, or no answer can come."""
        self.hinted_claim = None
        self._hinted_claim_ended.set()

    async def withdraw_hinted_claim(self, timeout: float) -> None:
        """Withdraw the claim of a node that takes no more work, and wait until its answer is known."""
        try:
            async with asyncio.timeout(timeout):
                while self.hinted_claim is not None:
                    self._hinted_claim_ended.clear()
                    self.hinted_claim.withdraw()
                    await self._hinted_claim_ended.wait()
        except TimeoutError:
            return

    def give_up_hinted_claim(self) -> str | None:
        """The request of the claim for `Liveness.withdraw`, while the event loop is blocked; None if there is none.

        The thread of the lease calls it. The event loop does not run what came with this claim. It withdraws the claim,
        too, when it goes on.
        """
        claim = self.hinted_claim
        return claim.request if claim is not None and claim.give_up() else None
