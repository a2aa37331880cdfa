"""The claim loop. Each round sends one request to the store: commit the outcomes, and claim the next instances."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreRefusedError
from peerjob.model.hashed import hashed_share, hashed_up_to
from peerjob.model.record import FINAL_STATE, MAX_BATCH, Ack, Action, Claimed, Want
from peerjob.model.state import State
from peerjob.node.observe.observer import Observer, call_listener, log_listener_failure
from peerjob.store.base import Store

from .changes import ChangeListener
from .in_flight import InFlight, StoreRequest
from .outcomes import Entry, handed_back
from .pool import Pool
from .refused_records import parts_of
from .run import HeldClaims, Run
from .unsent_reports import UnsentReports, Waker

logger = logging.getLogger("peerjob.node")

POLL = 1.0
"""Seconds after which an idle node claims without a hint, so a lost hint does not delay work for longer."""
QUIET = 3 * POLL
"""Seconds for which an idle node does not claim without a hint after a renewal: the answer said that no work is due."""
MAX_SPREAD_US = 10_000
"""Most microseconds by which an idle node claims later than an instance is due, so not all nodes claim together."""
MAX_WAIT = 60.0
"""Most seconds for which an idle node trusts the due time of the last answer: clocks drift."""
MAX_SLEEP = 10.0
"""Most seconds that the claim loop sleeps, so that an idle claim loop still proves to its watchdog that it runs."""
MAX_REFUSAL = 30.0
"""Most seconds before the claim loop repeats a refused claim. The wait starts at `POLL` and doubles each time."""
MAX_FAULT = 5.0
"""The same for a claim that raises an unexpected error."""
COLLECTED = MAX_BATCH // 4
"""Outcomes for which the claim loop waits at most. With more, the store would be idle for too long."""
COLLECT = 0.005
"""Most seconds for which the claim loop waits for them, because a body can block the event loop."""
MAX_FAILURES = 3
"""Tries before the claim loop drops an outcome that the store refuses, or a request with an unexpected error."""

# each run needs these members, and Python finds a name of a module in a small part of the time
_REPORT, _DONE = Action.REPORT, Ack.DONE


class ClaimLoop(BackgroundRole):
    """The only caller of `Store.turn`. Nothing else commits, and only `hint_wait` claims, too.

    `on_dead` takes an incarnation that the store has declared dead. `publish` publishes the kinds of the node again.
    """

    name = "claim loop"
    restart_delay = 0.2
    patience = 60.0
    """Longer than the 30 s for which the client of the store repeats a request, plus the time of the last try."""

    def __init__(
        self,
        clock: Clock,
        store: Store,
        kinds: Callable[[], tuple[str, ...]],
        held_claims: HeldClaims,
        unsent_reports: UnsentReports,
        in_flight: InFlight,
        waker: Waker,
        pool: Pool,
        changes: ChangeListener,
        on_dead: Callable[[str], None],
        observers: Sequence[Observer] = (),
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._kinds = kinds
        self._held_claims = held_claims
        self._unsent_reports = unsent_reports
        self._in_flight = in_flight
        self._waker = waker
        self._pool = pool
        self._changes = changes
        self._on_dead = on_dead
        self._observers = observers
        self._publish = publish
        self._poll_at = 0.0
        """When the next claim without a hint is due, unless the answer to a renewal makes it unnecessary."""
        self._due_at = math.inf
        """When the next delayed instance is due, by the last answer to a claim."""
        self._serial = 0
        self._failures = 0
        """How often in a row the first request in flight was refused, or raised an unexpected error."""
        self._claim_wait = 0.0
        self._no_claim_until = 0.0
        self._claim_fails = False
        """Whether the last claim raised an unexpected error. The watchdog then gets no beat from a loop that sleeps."""

    def renewed(self, work_due: bool | None) -> None:
        """Plan the next claim without a hint by the answer to a renewal (`Renewed.work_due`)."""
        if work_due:
            if self._pool.may_claim(self._kinds()):
                self._waker.hint()
        elif work_due is not None:
            self._poll_at = max(self._poll_at, asyncio.get_running_loop().time() + self.spread(QUIET))

    def not_renewed(self) -> None:
        """Claim without a hint: a renewal failed, so no answer told whether work is due."""
        self._poll_at = min(self._poll_at, asyncio.get_running_loop().time())
        self._waker.wake()

    async def flush(self, timeout: float) -> bool:
        """Wait until the store answered every outcome; False if the time was over first."""
        try:
            async with asyncio.timeout(timeout):
                while self._in_flight.unacknowledged:
                    self._waker.wake()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._waker.woken.clear()
            self._review_hinted_claim()
            if not self._in_flight.requests:
                await self._collect(loop)
                composed = self._compose(loop.time())
                if composed is None:
                    await self._sleep(loop)
                    continue
                self._in_flight.requests.append(composed)
            asked = self._in_flight.requests[0]
            asked_at = loop.time()
            try:
                acks, claimed = await self._store.turn(
                    asked.incarnation, [outcome for _, outcome in asked.entries], asked.want, request=asked.request
                )
            except StoreRefusedError as error:
                self._failures += 1
                if asked.alone and self._failures < MAX_FAILURES:
                    raise
                self._refused(asked, error)
                self.watchdog.beat()
                continue
            except StoreError:
                raise  # the request stays in flight, so the next call of `run` sends the request again
            except Exception as error:
                self._failures += 1
                if self._failures < MAX_FAILURES and (asked.alone or not asked.apart):
                    raise
                self._refused(asked, error)
                if not self._in_flight.requests:
                    raise
                continue
            answered = await self._found_done(asked.entries, acks) if asked.apart else acks
            # remove the request only when every answer is known: if an error came after the removal, the runs of the
            # request would wait for ever
            self._in_flight.requests.popleft()
            self._failures = 0
            self._in_flight.rounds += 1
            answered_at = loop.time()
            for observer in self._observers:
                call_listener(
                    "round", observer.round_ended, answered_at - asked_at, asked.entries, acks, claimed.claims
                )
            self._acknowledge(asked.entries, answered)
            if asked.want is not None:
                self._claim_wait, self._claim_fails = 0.0, False
                self._take(asked.incarnation, claimed, loop.time())
                await self._let_bodies_start(claimed)
            self.watchdog.beat()

    async def _sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sleep until a part of the node wakes the claim loop, or until a claim without a hint is due."""
        if not self._claim_fails:
            self.watchdog.beat()
        claim_at = max(min(self._poll_at, self._due_at), self._no_claim_until)
        if claim_at <= loop.time() + MAX_SLEEP and self._pool.may_claim(self._kinds()):
            timer = loop.call_at(claim_at, self._waker.wake)
        else:
            timer = loop.call_later(MAX_SLEEP, self._waker.wake)
        self._in_flight.claim_loop_sleeps.set()
        try:
            await self._waker.woken.wait()
        finally:
            self._in_flight.claim_loop_sleeps.clear()
            timer.cancel()

    async def _collect(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let quick bodies end, so that one request commits many outcomes.

        The claim loop waits only while each pass of the event loop brings an outcome, and while claims wait for a
        worker. A body that waits for something else therefore delays no outcome.
        """
        unsent, until = self._unsent_reports, loop.time() + COLLECT
        before, size = 0, len(unsent)
        while before < size < COLLECTED and self._pool.waiting and not unsent.has_reports and loop.time() < until:
            await asyncio.sleep(0)
            before, size = size, len(unsent)

    def _review_hinted_claim(self) -> None:
        """Withdraw the claim that waits for a hint if no worker is free any more, or the node runs other kinds."""
        claim = self._in_flight.hinted_claim
        if claim is None:
            return
        kinds = self._kinds()
        if (kinds is not claim.kinds and kinds != claim.kinds) or not self._pool.may_claim(kinds):
            claim.withdraw()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _compose(self, now: float) -> StoreRequest | None:
        """The request of this round; None if there is nothing to send."""
        incarnation = self._held_claims.incarnation
        entries = self._unsent_reports.take()
        want: Want | None = None
        if entries and entries[0][0].incarnation != incarnation:
            # outcomes of a dead incarnation are sent under that incarnation: the store answers LOST to each of them
            incarnation = entries[0][0].incarnation
        else:
            if self._unsent_reports.has_reports:
                entries += self._unsent_reports.take_reports(entries, now)
            want = self._want(now)
        if not entries and want is None:
            return None
        return StoreRequest(incarnation=incarnation, entries=entries, want=want, request=self._request(incarnation))

    def _want(self, now: float) -> Want | None:
        if now < self._no_claim_until or (not self._waker.hinted and now < min(self._poll_at, self._due_at)):
            return None
        limit, caps = self._pool.claimable(self._kinds())
        if not limit:
            return None
        self._waker.hinted = False
        return Want(kinds=caps, limit=limit, suspects=self._pool.may_take_suspect)

    def _request(self, incarnation: str) -> str:
        self._serial += 1
        return f"{incarnation}/{self._serial}"

    def _refused(self, asked: StoreRequest, error: Exception) -> None:
        """Split or reduce a request that the store refuses for good, or drop the request if no part is left to send."""
        self._in_flight.requests.popleft()
        self._failures = 0
        parts = parts_of(asked, error, lambda: self._request(asked.incarnation))
        self._in_flight.requests.extendleft(reversed(parts))
        if parts:
            return
        for run, outcome in asked.entries:
            if outcome.action is Action.REPORT:
                if run.durable is not None:
                    run.durable.refused(error)
                self._report_answered(run, Ack.DONE if run.acked is None else Ack.LOST)
            else:
                self._held_claims.remove(run)
        if asked.want is None:
            return
        self._waker.hinted = True
        self._claim_fails = not isinstance(error, StoreRefusedError)
        self._claim_wait = min(MAX_FAULT if self._claim_fails else MAX_REFUSAL, 2 * self._claim_wait or POLL)
        self._no_claim_until = asyncio.get_running_loop().time() + self._claim_wait
        failure = "the claim fails" if self._claim_fails else "the store refuses the claim"
        logger.error("%s; the node repeats it in %g s: %s", failure, self._claim_wait, error)

    # -- answers -----------------------------------------------------------------------------------------------------

    async def _found_done(self, entries: Sequence[Entry], acks: Sequence[Ack]) -> Sequence[Ack]:
        """The answers, with DONE instead of LOST for each outcome that the store committed before an earlier refusal.

        The store answers LOST if the claim loop sends a committed outcome again under another request id.
        """
        lost = [outcome for (_, outcome), ack in zip(entries, acks, strict=True) if ack is Ack.LOST]
        try:
            records = await self._store.get([outcome.id for outcome in lost]) if lost else []
        except StoreError:
            return acks
        done = {
            outcome.id
            for outcome, record in zip(lost, records, strict=True)
            if record is not None
            and record.fence == outcome.fence
            and record.state is FINAL_STATE.get(outcome.action, State.SCHEDULED)
        }
        return [Ack.DONE if run.claim.id in done else ack for (run, _), ack in zip(entries, acks, strict=True)]

    def _acknowledge(self, entries: Sequence[Entry], acks: Sequence[Ack]) -> None:
        """Tell waiters and processors of the outcomes that the store accepted."""
        for (run, outcome), ack in zip(entries, acks, strict=True):
            if outcome.action is _REPORT:
                self._report_answered(run, ack)
                continue
            self._held_claims.remove(run)
            if ack is _DONE:
                try:
                    self._changes.accepted(run, outcome)
                except Exception as error:  # noqa: BLE001  # no processor or waiter may stop the claim loop
                    log_listener_failure(f"instance {run.claim.id}", error)
            elif ack is Ack.TAKEN:
                # the store still holds the claim: the next run reads the steps anew
                self._unsent_reports.give_back(run, handed_back(run, "another value of a step was stored first"))
            elif ack is Ack.LOST:
                logger.warning(
                    "instance %s: its outcome (%s) is not stored: its claim had ended, by a peer that took it back"
                    " or by an earlier outcome",
                    run.claim.id,
                    outcome.action,
                )

    def _report_answered(self, run: Run, ack: Ack) -> None:
        if run.acked is not None and not run.acked.done():
            run.acked.set_result(ack)
        if run.durable is not None:
            run.durable.answered(ack)
        if ack is Ack.LOST and not run.ended:
            run.lost = True
            run.cancel("lost")
        elif ack is Ack.CANCELLED:
            run.cancel("user")

    def spread(self, seconds: float, jitter: float = 0.1) -> float:
        # not drawn: how often this loop claims depends on the speed of threads, and others draw from the generator
        share = hashed_share(f"{self._held_claims.incarnation}/{self.clock.elapsed()}")
        return seconds * (1 + jitter * (2 * share - 1))

    def _take(self, incarnation: str, claimed: Claimed, now: float) -> None:
        """Give the pool the instances that the store has claimed for this node."""
        if claimed.dead:
            self._poll_at, self._due_at = now + POLL, math.inf
            call_listener("claim", self._on_dead, incarnation)
            return
        if incarnation != self._held_claims.incarnation:
            # the node joined under a new incarnation during the request, so a peer reaps claims of the old incarnation
            return
        if claimed.limits_missing:
            self._publish()
        if not claimed.claims:
            # not earlier than a renewal has allowed
            self._poll_at, self._due_at = max(self._poll_at, now + self.spread(POLL)), math.inf
            if claimed.next_due_us is not None:
                wait_us = claimed.next_due_us - claimed.now_us
                spread_us = min(MAX_SPREAD_US, max(0, wait_us) // 100)
                wait = (wait_us + hashed_up_to(spread_us, f"{incarnation}/{claimed.next_due_us}")) / 1_000_000
                self._due_at = now + min(max(0.001, wait), MAX_WAIT)
            return
        self._waker.hinted = True  # claim again: only an empty answer proves that no instance is due
        runs = [Run(claim, incarnation, now) for claim in claimed.claims]
        for run in runs:
            self._held_claims.add(run)
            try:
                self._changes.claimed(run)
            except Exception as error:  # noqa: BLE001  # no processor may stop the claim loop
                log_listener_failure(f"instance {run.claim.id}", error)
        self._pool.take(runs)

    def take_hinted(self, incarnation: str, claimed: Claimed) -> None:
        """Take the claims that came with a hint."""
        for observer in self._observers:
            call_listener("round", observer.round_ended, None, [], [], claimed.claims)
        loop = asyncio.get_running_loop()
        self._take(incarnation, claimed, loop.time())
        loop.call_soon(self._waker.wake)  # bodies start before the next request, as in `_let_bodies_start`

    async def _let_bodies_start(self, claimed: Claimed) -> None:
        """Let claimed bodies start before the next request, unless outcomes wait for it.

        Bodies that end immediately are part of that request.
        """
        if claimed.claims and not self._unsent_reports.awaited:
            await asyncio.sleep(0)

    async def stop(self) -> None:
        await super().stop()
        self._unsent_reports.close()
