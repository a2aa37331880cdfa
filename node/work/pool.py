"""The workers: slots that run one claimed instance each. A short backlog of claims feeds them."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from itertools import islice
from typing import Protocol

from peerjob.handles.context import Reason
from peerjob.model.caps import Caps
from peerjob.model.child_tasks import end
from peerjob.model.record import MAX_BATCH
from peerjob.model.worker import Worker
from peerjob.node.body.context_vars import ContextVars
from peerjob.node.exit import abandon

from .outcomes import handed_back, put_off
from .run import PROBATION, Run
from .unsent_reports import UnsentReports, Waker

logger = logging.getLogger("peerjob.node")

MAX_QUICK = 100
"""Most kinds that have their own cap in a claim, so that the size of a claim is limited."""
WORTH = 0.020
"""For kinds with short runs, the node claims ahead about this many seconds of work per worker."""
HOLD = 0.100
"""Seconds after which the pool hands back a claim that no worker started, so that a peer can run the instance."""

FAILURE_WAIT = 1.0
"""Seconds before an instance that this node failed to run is due again: an immediate try would fail again."""


class Trust(Protocol):
    """The lease, as far as the pool needs it."""

    @property
    def trusted(self) -> bool: ...


class Runner(Protocol):
    """Runs one claimed instance to its end, and adds the outcome to the unsent reports."""

    async def run(self, run: Run) -> None: ...


class Prefetch:
    """How many instances to claim ahead, by the moving average of run times per kind (a new time weighs a fifth)."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def measured(self, kind: str, seconds: float) -> None:
        mean = self._mean.get(kind)
        self._mean.pop(kind, None)  # the next line adds the kind at the end, so the last key is the latest kind
        self._mean[kind] = seconds if mean is None else mean + (seconds - mean) * 0.2

    def stalled(self, kind: str) -> None:
        """A claim waited too long: claim nothing of this kind ahead until the next measurement."""
        self._mean.pop(kind, None)

    def latest(self, most: int) -> Iterable[str]:
        """The latest kinds, the last one first."""
        return islice(reversed(self._mean), most)

    def ahead(self, kind: str, workers: int) -> int:
        """How many instances of this kind to hold beyond the free workers."""
        mean = self._mean.get(kind)
        if mean is None:
            return 0
        if mean <= WORTH:
            return min(MAX_BATCH, math.ceil(workers * WORTH / max(mean, 1e-6)))
        return workers if mean < HOLD else 0


class Pool:
    """Slots and backlog. A body starts only while the lease is trusted and fewer reports are unsent than the bound."""

    def __init__(
        self,
        size: int,
        node: str,
        runner: Runner,
        lease: Trust,
        unsent_reports: UnsentReports,
        waker: Waker,
        prefetch: Prefetch,
        context_vars: ContextVars,
        rated: Callable[[], Set[str]] = frozenset,
    ) -> None:
        self.context_vars = context_vars
        self._rated = rated
        self._size = size
        self._node = node
        self._runner = runner
        self._lease = lease
        self._unsent_reports = unsent_reports
        self._waker = waker
        self._prefetch = prefetch
        self._loop = asyncio.get_running_loop()
        self._free = list(range(size))
        self._running: dict[int, Run] = {}
        self._backlog: deque[Run] = deque()
        self._latest: set[str] = set()
        self._kinds: tuple[tuple[str, ...], frozenset[str]] = ((), frozenset())
        self._sweep: asyncio.TimerHandle | None = None
        self._dispatching = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.accepting = True
        """False during a drain or a stop: the pool claims and starts nothing."""

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return self._size

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Claims that have not started."""
        return len(self._backlog)

    def runs(self) -> list[Run]:
        """The runs in slots."""
        return list(self._running.values())

    def workers(self) -> list[Worker]:
        """Every slot by number, busy or not. A slot that a resize removed is shown while it is busy."""
        numbers = sorted({*range(self._size), *self._running})
        return [self.worker(number) for number in numbers]

    def worker(self, number: int) -> Worker:
        run = self._running.get(number)
        if run is None:
            return Worker(number=number, node=self._node)
        return run.worker(self._node, self._loop.time())

    @property
    def stuck(self) -> int:
        now = self._loop.time()
        return sum(run.is_stuck(now) for run in self._running.values())

    @property
    def stuck_bodies(self) -> int:
        """Workers that only a restart of the process frees. The node gives up processors that hang, but not bodies."""
        now = self._loop.time()
        return sum(run.ended_at is None and run.is_stuck(now) for run in self._running.values())

    def _may_start(self) -> bool:
        return self._lease.trusted and not self._unsent_reports.full

    # -- what to claim -----------------------------------------------------------------------------------------

    def claimable(self, kinds: tuple[str, ...]) -> tuple[int, Caps]:
        """(limit, kind → cap) of the next claim: free workers, plus what is worth holding ahead. Limit 0: no claim.

        The next claim most likely brings the kinds of the last claim. So the slowest kind of the last claim limits how
        much the pool holds ahead. Otherwise a claim of many quick instances would wait behind slow ones. Of kinds with
        a rate, nothing is held ahead: a claim that is handed back uses up the rate twice.
        """
        if not kinds or not self.accepting or not self._may_start():
            return 0, Caps(kinds, 0)
        free = self._size - len(self._running)
        held = len(self._backlog)
        best = min((self._prefetch.ahead(kind, self._size) for kind in self._latest), default=0)
        rated = self._rated() if best else frozenset[str]()
        if not rated.isdisjoint(self._latest):
            best = 0
        if free <= held and held > best // 2:
            return 0, Caps(kinds, 0)
        # while quick kinds keep every worker busy, each claim can still bring one instance of another kind. Otherwise
        # the other kinds would wait until the store has no more instances of quick kinds.
        least = 1 if best else 0
        default = max(least, free - held)
        quick: dict[str, int] = {}
        # only quick kinds have their own cap. The default is for all other kinds, so a claim does not grow with the
        # number of kinds.
        if best:
            known, prefetch = self._known(kinds), self._prefetch
            ahead = {kind: prefetch.ahead(kind, self._size) for kind in prefetch.latest(MAX_QUICK) if kind in known}
            quick = {kind: max(least, free + min(best, more) - held) for kind, more in ahead.items() if more}
        limit = min(MAX_BATCH, max(quick.values(), default=default))
        if best and rated:
            quick |= dict.fromkeys(rated & self._known(kinds), max(0, free - held))
        return limit, Caps(kinds, default, quick, self._known(kinds))

    def may_claim(self, kinds: tuple[str, ...]) -> bool:
        """Whether the limit of the next claim is not 0. Mostly it is enough that a worker has no claim to run."""
        is_free = len(self._running) + len(self._backlog) < self._size
        return bool(is_free and kinds and self.accepting and self._may_start()) or self.claimable(kinds)[0] > 0

    def _known(self, kinds: tuple[str, ...]) -> frozenset[str]:
        if self._kinds[0] is not kinds:
            self._kinds = (kinds, frozenset(kinds))
        return self._kinds[1]

    @property
    def may_take_suspect(self) -> bool:
        """Whether no suspect of this node is on probation (`Run.on_probation`)."""
        now = self._loop.time()
        return not any(run.on_probation(now) for run in (*self._running.values(), *self._backlog))

    # -- feeding -----------------------------------------------------------------------------------------------

    def take(self, runs: Sequence[Run]) -> None:
        """Take the claims of one round. Each one starts when a worker is free; during a drain, hand them back."""
        self._latest = {run.claim.kind for run in runs}
        self._backlog.extend(runs)
        if not self.accepting:  # the claim was under way when the drain or the stop began
            self.empty_backlog("the node takes no work")
        self.dispatch()

    def dispatch(self) -> None:
        """Start as many runs as there are free workers."""
        if self._dispatching:
            # with `asyncio.eager_task_factory`, a run can end within `_start`: the loop below starts the next one
            return
        backlog = self._backlog
        self._dispatching = True
        try:
            while backlog and self.accepting and len(self._running) < self._size and self._may_start():
                self._start(backlog.popleft())
        finally:
            self._dispatching = False
        self._watch_backlog()

    def _watch_backlog(self) -> None:
        if self._backlog and self._sweep is None:
            self._sweep = self._loop.call_at(self._backlog[0].claimed_at + HOLD, self._hand_back_stale)

    def _start(self, run: Run) -> None:
        run.slot = heapq.heappop(self._free)
        self._running[run.slot] = run
        self._quiet.clear()
        # use the captured context variables: the current ones can belong to a run that has just ended
        run.variables = self.context_vars.captured
        task = self._loop.create_task(self._work(run), context=run.variables.copy())
        if not run.ended:  # it has ended with `asyncio.eager_task_factory`, see `_finished`
            run.task = task
        if run.suspect:
            self._loop.call_later(PROBATION, self._waker.hint)

    async def _work(self, run: Run) -> None:
        if run.task is None:  # with `asyncio.eager_task_factory`, the run begins before `create_task` returns
            run.task = asyncio.current_task()
        try:
            # a process that was stopped since `dispatch` starts its tasks before it learns that its trust has ended
            if self._lease.trusted:
                await self._runner.run(run)
            else:
                self._hand_back(run, "node lost contact with the store")
        except asyncio.CancelledError:
            # the event loop is being closed, before the body began or after the body ended: the executor absorbs all
            # other cancellations
            if run.outcome is None:
                self._hand_back(run, "node stopped")
        except Exception:
            logger.exception("instance %s: the node failed to run it", run.claim.id)
            self._unsent_reports.give_back(run, put_off(run, FAILURE_WAIT, "the node failed to run it"))
        finally:
            if not self._loop.is_closed():
                self._finished(run)

    def _finished(self, run: Run) -> None:
        run.ended = True
        run.task = None  # now, not with the next commit: objects that live until then cause garbage collections
        del self._running[run.slot]
        heapq.heappush(self._free, run.slot)
        if self._backlog:
            self.dispatch()
        if not self._running:
            self._quiet.set()
        if run.suspect:
            self._waker.hint()
        elif len(self._running) < self._size:
            self._waker.wake()

    def _hand_back(self, run: Run, note: str) -> None:
        self._unsent_reports.give_back(run, handed_back(run, note))

    def _hand_back_stale(self) -> None:
        self._sweep = None
        now = self._loop.time() + 0.001  # a timer can fire early, by up to the resolution of the clock
        while self._backlog and now - self._backlog[0].claimed_at >= HOLD:
            run = self._backlog.popleft()
            self._prefetch.stalled(run.claim.kind)
            self._hand_back(run, "not started in time")
        self._watch_backlog()

    # -- changing and ending -----------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Change the number of slots. Running bodies continue."""
        self._size = size
        self._free = [number for number in range(size) if number not in self._running]
        heapq.heapify(self._free)
        self.dispatch()
        self._waker.wake()

    def empty_backlog(self, note: str) -> None:
        """Hand back every claim that has not started."""
        while self._backlog:
            self._hand_back(self._backlog.popleft(), note)

    def drop(self, run: Run) -> bool:
        """Remove a claim from the backlog; False if the claim has started."""
        try:
            self._backlog.remove(run)
        except ValueError:
            return False
        return True

    def forget_backlog(self) -> None:
        """Drop every claim that has not started: this node no longer owns them."""
        self._backlog.clear()

    def cancel(self, reason: Reason, *, keep: Callable[[Run], bool] = lambda run: False) -> None:
        """Ask every running body to end, unless `keep` is true for its run."""
        for run in self.runs():
            if not keep(run):
                run.cancel(reason)

    async def quiet(self, timeout: float | None) -> bool:
        """Wait until no body runs; False if the time was over first."""
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def quiet_unless(self, hurried: asyncio.Event, seconds: float, least: float = 0.0) -> bool:
        """Like `quiet`, but after the event is set, wait for only `least` seconds."""
        quiet = self._loop.create_task(self.quiet(max(seconds, least)))
        hurry = self._loop.create_task(hurried.wait())
        try:
            await asyncio.wait({quiet, hurry}, return_when=asyncio.FIRST_COMPLETED)
            return await quiet if quiet.done() else await self.quiet(least or 0.001)
        finally:
            await end((quiet, hurry))

    def abandon(self) -> int:
        """Let the event loop and the interpreter end without the bodies that still run, and return their number."""
        for run in self._running.values():
            if run.task is not None:
                abandon(run.task)
        return len(self._running)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
