"""The claim loop: one turn after another, each of which commits what has ended and claims what comes next."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreRefusedError
from peerjob.model.record import FINAL_STATE, MAX_BATCH, MAX_BATCH_BYTES, Ack, Action, Claimed, Outcome, Want
from peerjob.model.state import State
from peerjob.node.observe.listeners import call_listener, log_listener_failure
from peerjob.node.observe.observer import Observer
from peerjob.store.base import Store

from .held_claims import HeldClaims
from .outcome_builder import OutcomeBuilder
from .outcome_queue import Entry, OutcomeQueue, size_of
from .pool import Pool
from .refused_records import StoreRequest, parts_of
from .run import Run

logger = logging.getLogger("peerjob.node")

POLL = 1.0
"""Seconds after which an idle node claims without a hint; what a lost hint costs at most."""
BEAT = 10.0
"""Seconds after which a claim loop with nothing to do comes around all the same, which shows that it could."""
REPORT_EVERY = 0.1
"""Seconds between reports of starts, progress and logs of running bodies."""
MAX_REFUSAL = 30.0
"""Most seconds before a claim that the store refuses is sent again; the first wait is `POLL`."""
MAX_FAILURES = 3
"""Tries after which a single outcome that is refused, or a request that ends in an unexpected error, is given up."""


class ClaimListener(Protocol):
    """Hears of the results of a turn."""

    def claimed(self, run: Run) -> None: ...
    def accepted(self, run: Run, outcome: Outcome) -> None: ...
    def incarnation_dead(self, incarnation: str) -> None: ...


class ClaimLoop(BackgroundRole):
    """Speaks with the store for the pool: the only caller of `claim` and `commit`."""

    name = "claim loop"
    restart_delay = 0.2
    patience = 60.0
    """A turn is tried again for 30 s, and its last try may take a while."""

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        held_claims: HeldClaims,
        outcome_queue: OutcomeQueue,
        outcome_builder: OutcomeBuilder,
        kinds: Callable[[], tuple[str, ...]],
        incarnation: Callable[[], str],
        listener: ClaimListener,
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(clock)
        self.pool: Pool
        self._store = store
        self._held_claims = held_claims
        self._outcome_queue = outcome_queue
        self._outcome_builder = outcome_builder
        self._kinds = kinds
        self._incarnation = incarnation
        self._listener = listener
        self._observers = observers
        self._wake = asyncio.Event()
        self._hinted = True
        self._report_due = False
        self._report_timer: asyncio.TimerHandle | None = None
        self._urgent: list[Run] = []
        self._next_claim_at = 0.0
        self._serial = 0
        self._asked: deque[StoreRequest] = deque()
        """Requests that are not answered: one, or the parts of one that the store refused."""
        self._failures = 0
        """How often in a row the store refused the first of them, or an unexpected error ended it."""
        self._claim_wait = 0.0
        self._no_claim_until = 0.0
        self.rounds = 0
        """Answered so far; a claim that stays unknown over a whole turn is stranded."""

    @property
    def incarnation(self) -> str:
        """The incarnation that claims now."""
        return self._incarnation()

    # -- called from around the node --------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has changed: an outcome came in, or a worker is free."""
        self._wake.set()

    def hint(self) -> None:
        """There may be work."""
        self._hinted = True
        self._wake.set()

    def watch_reports(self) -> None:
        """A body runs: report its start, progress and logs soon, if it still runs then."""
        if self._report_timer is None:
            self._report_timer = asyncio.get_running_loop().call_later(REPORT_EVERY, self._report)

    def _report(self) -> None:
        self._report_timer = None
        runs = self.pool.runs()
        if any(run.unsaid for run in runs):
            self._report_due = True
            self._wake.set()
        if runs:
            self.watch_reports()

    async def commit_start(self, run: Run) -> bool:
        """Have the start of this run in the store before its body begins; False when the claim is lost."""
        run.acked = asyncio.get_running_loop().create_future()
        self._urgent.append(run)
        self._wake.set()
        return await run.acked is Ack.DONE

    @property
    def unsettled(self) -> bool:
        """Whether there is an outcome that the store does not have, or a claim whose answer is not here."""
        return bool(self._outcome_queue or self._asked or self._urgent)

    async def flush(self, timeout: float) -> bool:
        """Wait until every outcome was answered; False when the time was over first."""
        try:
            async with asyncio.timeout(timeout):
                while self.unsettled:
                    self._wake.set()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return False
        return True

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if not self._asked:
                composed = self._compose(loop.time())
                if composed is None:
                    self.watchdog.beat()
                    await self._sleep(loop)
                    continue
                self._asked.append(composed)
            asked = self._asked[0]
            asked_at = loop.time()
            try:
                acks, claimed = await self._store.turn(
                    asked.incarnation, asked.outcomes, asked.want, request=asked.request
                )
            except StoreRefusedError as error:
                self._failures += 1
                if asked.alone and self._failures < MAX_FAILURES:
                    raise
                self._refused(asked, error)
                self.watchdog.beat()
                continue
            except StoreError:
                raise  # the store may answer later
            except Exception as error:
                self._failures += 1
                if self._failures < MAX_FAILURES and (asked.alone or not asked.apart):
                    raise
                self._refused(asked, error)
                if not self._asked:
                    raise
                continue
            found = await self._found_done(asked, acks)
            # not before every answer is known: a request that is dropped earlier leaves its runs unsettled for ever
            self._asked.popleft()
            self._failures = 0
            self.rounds += 1
            answered_at = loop.time()
            for observer in self._observers:
                call_listener(
                    "round", observer.round_ended, answered_at - asked_at, asked.entries, acks, claimed.claims
                )
            self._settle(asked.entries, found)
            if asked.want is not None:
                self._claim_wait = 0.0
                self._take(asked.incarnation, claimed, loop.time())
            self.watchdog.beat()

    def _refused(self, asked: StoreRequest, error: Exception) -> None:
        """Send the parts of a request that the store refuses for good, and drop what is refused alone."""
        self._asked.popleft()
        self._failures = 0
        parts = parts_of(asked, error, lambda: self._request(asked.incarnation))
        self._asked.extendleft(reversed(parts))
        if parts:
            return
        for run, outcome in asked.entries:
            if outcome.action is Action.REPORT:
                self._report_answered(run, Ack.DONE if run.acked is None else Ack.LOST)
            else:
                self._held_claims.remove(run)
        if asked.want is None:
            return
        self._hinted = True
        if isinstance(error, StoreRefusedError):
            self._claim_wait = min(MAX_REFUSAL, 2 * self._claim_wait or POLL)
            self._no_claim_until = asyncio.get_running_loop().time() + self._claim_wait
            logger.error("the store refuses the claim; it is sent again in %g s: %s", self._claim_wait, error)

    def _request(self, incarnation: str) -> str:
        self._serial += 1
        return f"{incarnation}/{self._serial}"

    async def _found_done(self, asked: StoreRequest, acks: Sequence[Ack]) -> Sequence[Ack]:
        """The answers, where LOST may mean that the store had done the outcome before it refused the batch."""
        if not asked.apart:
            return acks
        lost = [outcome for outcome, ack in zip(asked.outcomes, acks, strict=True) if ack is Ack.LOST]
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
        return [Ack.DONE if outcome.id in done else ack for outcome, ack in zip(asked.outcomes, acks, strict=True)]

    async def _sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait to be woken, or for the next claim without a hint."""
        limit, _ = self.pool.room(self._kinds())
        claim_at = max(self._next_claim_at, self._no_claim_until)
        timer = loop.call_at(claim_at, self.hint) if limit else loop.call_later(BEAT, self.wake)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _compose(self, now: float) -> StoreRequest | None:
        incarnation = self._incarnation()
        entries = self._outcome_queue.take()
        want: Want | None = None
        if entries and entries[0][0].incarnation != incarnation:
            incarnation = entries[0][0].incarnation  # of a lapsed incarnation: its answers will be "lost"
        else:
            if self._report_due or self._urgent:
                entries += self._reports(now, {run.claim.id for run, _ in entries}, MAX_BATCH - len(entries))
            want = self._want(now)
        if not entries and want is None:
            return None
        return StoreRequest(incarnation=incarnation, entries=entries, want=want, request=self._request(incarnation))

    def _want(self, now: float) -> Want | None:
        if now < self._no_claim_until:
            return None
        if not self._hinted and now < self._next_claim_at:
            return None
        limit, caps = self.pool.room(self._kinds())
        if not limit:
            return None
        self._hinted = False
        return Want(kinds=caps, limit=limit, suspects=self.pool.may_take_suspect)

    def _reports(self, now: float, ending: set[str], most: int) -> list[Entry]:
        """Reports of running bodies that have something to say and are not ending in this very batch."""
        urgent, self._urgent = self._urgent, []
        self._report_due = False
        runs = [run for run in self.pool.runs() if run.unsaid and run not in urgent]
        reports: list[Entry] = []
        size = 0
        for run in (*urgent, *runs):
            awaited = run.acked is not None and not run.acked.done()
            if run.claim.id in ending or run.ended or run.lost:
                if run.acked is not None and awaited:
                    run.acked.set_result(Ack.LOST)
            elif len(reports) < most and size < MAX_BATCH_BYTES:
                if awaited:
                    run.started_at = now
                report = self._outcome_builder.report(run)
                size += size_of(report)
                reports.append((run, report))
            elif awaited:
                self._urgent.append(run)
            else:
                self._report_due = True
        return reports

    # -- answers -----------------------------------------------------------------------------------------------------

    def _settle(self, entries: Sequence[Entry], acks: Sequence[Ack]) -> None:
        for (run, outcome), ack in zip(entries, acks, strict=True):
            if outcome.action is Action.REPORT:
                self._report_answered(run, ack)
                continue
            self._held_claims.remove(run)
            if ack is Ack.DONE:
                try:
                    self._listener.accepted(run, outcome)
                except Exception as error:  # noqa: BLE001  # it is logged
                    log_listener_failure(f"instance {run.claim.id}", error)
            elif ack is Ack.LOST:
                logger.warning(
                    "instance %s: its end (%s) came too late, another node has it now",
                    run.claim.id,
                    outcome.action,
                )

    def _report_answered(self, run: Run, ack: Ack) -> None:
        if run.acked is not None and not run.acked.done():
            run.acked.set_result(ack)
        if ack is Ack.LOST and not run.ended:
            run.lost = True
            run.cancel("lost")
        elif ack is Ack.CANCELLED:
            run.cancel("user")

    def _take(self, incarnation: str, claimed: Claimed, now: float) -> None:
        if claimed.dead:
            self._next_claim_at = now + POLL
            call_listener("claim", self._listener.incarnation_dead, incarnation)
            return
        if incarnation != self._incarnation():
            return  # joined anew while the claim was on its way: these will be reaped
        if not claimed.claims:
            wait = POLL * (1 + self.clock.random.uniform(-0.1, 0.1))
            if claimed.next_due_us is not None:
                spread = 1 + self.clock.random.uniform(0, 0.01)
                wait = min(wait, max(0.001, (claimed.next_due_us - claimed.now_us) / 1_000_000 * spread))
            self._next_claim_at = now + wait
            return
        self._hinted = True  # there may be more; only an empty claim says that there is none
        runs = [Run(claim, incarnation, now) for claim in claimed.claims]
        for run in runs:
            self._held_claims.add(run)
            try:
                self._listener.claimed(run)
            except Exception as error:  # noqa: BLE001  # it is logged
                log_listener_failure(f"instance {run.claim.id}", error)
        self.pool.take(runs)

    async def stop(self) -> None:
        await super().stop()
        if self._report_timer is not None:
            self._report_timer.cancel()
            self._report_timer = None
