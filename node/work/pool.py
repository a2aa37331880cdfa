"""The workers: slots that run one claimed instance each, fed from a short backlog of claims."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from peerjob.handles.context import Reason
from peerjob.model.record import MAX_BATCH, Caps
from peerjob.model.worker import Worker
from peerjob.node.body.context_vars import ContextVars
from peerjob.node.exit import abandon

from .outbox import Outbox
from .run import PROBATION, Run

logger = logging.getLogger("peerjob.node")

MAX_QUICK = 100
"""Most kinds of which several are claimed ahead."""
WORTH = 0.020
"""Seconds of measured work per worker that may be claimed ahead."""
HOLD = 0.100
"""Seconds after which the pool hands back a claim that no worker started."""


class Trust(Protocol):
    """The lease, as far as the pool needs it."""

    @property
    def trusted(self) -> bool: ...


class Runner(Protocol):
    """Runs one claimed instance to its end, and puts the outcome into the outbox."""

    async def run(self, run: Run) -> None: ...
    def hand_back(self, run: Run, note: str) -> None: ...
    def put_off(self, run: Run, note: str) -> None: ...


class Prefetch:
    """A moving average of run times per kind (each new one weighs a fifth)."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def measured(self, kind: str, seconds: float) -> None:
        mean = self._mean.get(kind)
        self._mean.pop(kind, None)  # so that it is the latest
        self._mean[kind] = seconds if mean is None else mean + (seconds - mean) * 0.2

    def stalled(self, kind: str) -> None:
        """Claiming ahead was wrong: nothing more of this kind until it has been measured again."""
        self._mean.pop(kind, None)

    def latest(self, most: int) -> Iterable[str]:
        """The kinds that were measured last, the last one first."""
        return islice(reversed(self._mean), most)

    def ahead(self, kind: str, workers: int) -> int:
        """How many of this kind to hold beyond the free workers."""
        mean = self._mean.get(kind)
        if mean is None:
            return 0
        if mean <= WORTH:
            return min(MAX_BATCH, math.ceil(workers * WORTH / max(mean, 1e-6)))
        return workers if mean < HOLD else 0


class Pool:
    """Slots and backlog. A body starts only while the lease is trusted and the outbox is not full."""

    def __init__(
        self,
        *,
        size: int,
        node: str,
        runner: Runner,
        lease: Trust,
        outbox: Outbox,
        prefetch: Prefetch,
        context_vars: ContextVars,
    ) -> None:
        self._context_vars = context_vars
        self._size = size
        self._node = node
        self._runner = runner
        self._lease = lease
        self._outbox = outbox
        self._prefetch = prefetch
        self._loop = asyncio.get_running_loop()
        self._free = list(range(size))
        self._running: dict[int, Run] = {}
        self._backlog: deque[Run] = deque()
        self._latest: set[str] = set()
        self._kinds: tuple[tuple[str, ...], frozenset[str]] = ((), frozenset())
        self._sweep: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.accepting = True
        """Cleared by drain and stop: nothing more is claimed or started."""

    # -- what is going on --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return self._size

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Claims not started yet."""
        return len(self._backlog)

    def runs(self) -> list[Run]:
        """The runs whose bodies have begun and not ended."""
        return list(self._running.values())

    def workers(self) -> list[Worker]:
        """Every slot, busy or not, by number; slots that are being shrunk away are still shown while busy."""
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
        """Workers that only a new process sets free: a processor that hangs is given up, a body is not."""
        now = self._loop.time()
        return sum(run.ended_at is None and run.is_stuck(now) for run in self._running.values())

    def _may_start(self) -> bool:
        return self._lease.trusted and not self._outbox.full

    # -- what to claim -----------------------------------------------------------------------------------------

    def room(self, kinds: tuple[str, ...]) -> tuple[int, Caps]:
        """(limit, kind → cap) of the next claim: free workers, and what is worth holding ahead; limit 0 for none.

        What came last is most likely what comes next, so the slowest kind of the last claim bounds how much is held
        ahead: else quick kinds would be claimed past slow ones that are due before them, only to wait behind these.
        """
        if not kinds or not self.accepting or not self._may_start():
            return 0, Caps(kinds, 0)
        free = self._size - len(self._running)
        held = len(self._backlog)
        best = min((self._prefetch.ahead(kind, self._size) for kind in self._latest), default=0)
        if free <= held and held > best // 2:
            return 0, Caps(kinds, 0)
        # while quick kinds keep every worker busy, each claim may still bring one of any other kind: it waits its turn
        # for a moment, rather than until the quick ones are all done
        least = 1 if best else 0
        default = max(least, free - held)
        quick: dict[str, int] = {}
        if best:  # of the rest one at a time is enough, so that the claim does not grow with the number of kinds
            known, prefetch = self._known(kinds), self._prefetch
            ahead = {kind: prefetch.ahead(kind, self._size) for kind in prefetch.latest(MAX_QUICK) if kind in known}
            quick = {kind: max(least, free + min(best, more) - held) for kind, more in ahead.items() if more}
        return min(MAX_BATCH, max(quick.values(), default=default)), Caps(kinds, default, quick)

    def _known(self, kinds: tuple[str, ...]) -> frozenset[str]:
        if self._kinds[0] is not kinds:
            self._kinds = (kinds, frozenset(kinds))
        return self._kinds[1]

    @property
    def may_take_suspect(self) -> bool:
        """At most one suspect is here at a time, until it has lived through its probation (`Run.on_probation`)."""
        now = self._loop.time()
        return not any(run.on_probation(now) for run in (*self._running.values(), *self._backlog))

    # -- feeding -----------------------------------------------------------------------------------------------

    def take(self, runs: Sequence[Run]) -> None:
        """Take what one claim brought; each starts as soon as a worker is free."""
        self._latest = {run.claim.kind for run in runs}
        self._backlog.extend(runs)
        self.dispatch()

    def dispatch(self) -> None:
        """Start what can be started."""
        backlog = self._backlog
        while backlog and self.accepting and len(self._running) < self._size and self._may_start():
            self._start(backlog.popleft())
        self._watch_backlog()

    def _watch_backlog(self) -> None:
        if self._backlog and self._sweep is None:
            self._sweep = self._loop.call_at(self._backlog[0].claimed_at + HOLD, self._hand_back_stale)

    def _start(self, run: Run) -> None:
        run.slot = heapq.heappop(self._free)
        self._running[run.slot] = run
        self._quiet.clear()
        # not in the present context, which may be that of the run that has just ended
        run.variables = self._context_vars.captured
        run.task = self._loop.create_task(self._work(run), context=run.variables.copy())
        if run.claim.suspect:
            self._loop.call_later(PROBATION, self._outbox.hint)

    async def _work(self, run: Run) -> None:
        try:
            await self._runner.run(run)
        except asyncio.CancelledError:
            # the end of the body absorbs cancellation; the loop is being closed, before it began or after it ended
            if run.outcome is None:
                self._runner.hand_back(run, "node stopped")
        except Exception:
            logger.exception("instance %s: the node failed to run it", run.claim.id)
            self._runner.put_off(run, "the node failed to run it")
        finally:
            self._finished(run)

    def _finished(self, run: Run) -> None:
        run.ended = True
        del self._running[run.slot]
        if run.slot < self._size:
            heapq.heappush(self._free, run.slot)
        if self._backlog:
            self.dispatch()
        if not self._running:
            self._quiet.set()
        if run.claim.suspect:
            self._outbox.hint()
        elif len(self._running) < self._size:
            self._outbox.wake()

    def _hand_back_stale(self) -> None:
        self._sweep = None
        now = self._loop.time() + 0.001  # timers may come early, by what the loop's clock can tell apart
        while self._backlog and now - self._backlog[0].claimed_at >= HOLD:
            run = self._backlog.popleft()
            self._prefetch.stalled(run.claim.kind)
            self._runner.hand_back(run, "not started in time")
        self._watch_backlog()

    # -- changing and ending -----------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Change the number of slots; running bodies go on to their end."""
        self._size = size
        self._free = [number for number in range(size) if number not in self._running]
        heapq.heapify(self._free)
        self.dispatch()
        self._outbox.wake()

    def empty_backlog(self, note: str) -> None:
        """Hand every claim back that was not started."""
        while self._backlog:
            self._runner.hand_back(self._backlog.popleft(), note)

    def drop(self, run: Run) -> bool:
        """Take a claim out of the backlog; False when it is not there (it has been started)."""
        try:
            self._backlog.remove(run)
        except ValueError:
            return False
        return True

    def forget_backlog(self) -> None:
        """Drop every claim that was not started: they are not ours any more."""
        self._backlog.clear()

    def cancel(self, reason: Reason, *, keep: Callable[[Run], bool] = lambda run: False) -> None:
        """Ask every running body to end, but for those that `keep` names."""
        for run in self.runs():
            if not keep(run):
                run.cancel(reason)

    async def quiet(self, timeout: float | None) -> bool:
        """Wait until no body runs; False when the time was over first."""
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def quiet_unless(self, hurried: asyncio.Event, seconds: float, least: float = 0.0) -> bool:
        """Like `quiet`, but wait for `least` seconds only once the event is set."""
        quiet = self._loop.create_task(self.quiet(max(seconds, least)))
        hurry = self._loop.create_task(hurried.wait())
        try:
            await asyncio.wait({quiet, hurry}, return_when=asyncio.FIRST_COMPLETED)
            return await quiet if quiet.done() else await self.quiet(least or 0.001)
        finally:
            for task in (quiet, hurry):
                task.cancel()
            await asyncio.wait({quiet, hurry})

    def abandon(self) -> int:
        """Let the loop and the interpreter end without the bodies that still run; how many that are."""
        for run in self._running.values():
            if run.task is not None:
                abandon(run.task)
        return len(self._running)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
