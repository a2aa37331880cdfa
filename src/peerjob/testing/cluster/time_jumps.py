# pyright: reportPrivateUsage=false
# it must know the timer that reports what bodies say
"""TimeJumps over stretches of time in which a cluster does nothing but look again.

While nothing is claimed, committed or overdue and no fault goes on, time jumps to just before the next thing that is
due. The roles of nodes that only look again each second (`POLLS`) do not notice: their timers keep the time that they
have left, and no lease gets older. All other timers, those of bodies too, bound a jump, and so does what is due in the
store. A jump thus leaves out polls that find nothing, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from peerjob.node.work.claim_loop import ClaimLoop
from peerjob.store.kv.keys import Keys

from .clocks import ClusterClock
from .connections import SharedData
from .journal import EventJournal
from .member import Member
from .node_tasks import role_of

POLLS = frozenset({"lease", "election", "reaper", "claim loop", "hints", "cron", "waiters", "watchers", "retention"})
"""Roles whose waits pass without a jump's time."""
MIN_JUMP = 2.0
"""Seconds that a jump is worth; polls are never further apart."""
EARLY = 0.005
"""Seconds before something is due at which a jump ends, so that the nodes see it come."""
SOON = 1.2
"""Seconds in which a node might not look again by itself."""
CALM = 15.0
"""Seconds after a fault without a jump; more for a long lease."""
MAX_READY = 50


class TimeJumps:
    """Decides when time jumps, and how far."""

    def __init__(
        self,
        *,
        clock: ClusterClock,
        data: SharedData,
        journal: EventJournal,
        members: Callable[[], Iterable[Member]],
        is_disturbed: Callable[[], bool],
        keys: Keys,
        ttl_us: int,
    ) -> None:
        self._clock = clock
        self._data = data
        self._journal = journal
        self._members = members
        self._is_disturbed = is_disturbed
        self._keys = keys
        self._ready = f"{keys.root}ready/"
        self._ttl_us = ttl_us
        self._calm = max(CALM, 4 * ttl_us / 1_000_000)
        self._calm_from = clock.steady + self._calm
        self.jumps = 0
        """How many there were."""
        self.skipped = 0.0
        """How many seconds were left out."""

    def disturbed(self) -> None:
        """Allow no jump until the cluster has had time to come to rest: a test has done something to it."""
        self._calm_from = self._clock.steady + self._calm

    def consider(self) -> bool:
        """Jump if nothing is missed, and say whether it was done; called while the loop is at rest."""
        clock = self._clock
        if clock.steady < self._calm_from or (room := clock.room(_is_poll)) < MIN_JUMP:
            return False
        if self._is_disturbed():
            self.disturbed()
            return False
        members = [member for member in self._members() if member.lives]
        if not all(member.is_at_rest for member in members):
            return False
        claimed = {kind for member in members for kind in member.claims}
        if claimed and self._is_ready(claimed):
            return False
        seconds = min(room, self._until_due(claims=bool(claimed)))
        if not MIN_JUMP <= seconds < float("inf") or not any(member.is_leader for member in members):
            return False
        self._jump(seconds, members)
        return True

    def _jump(self, seconds: float, members: list[Member]) -> None:
        self.jumps += 1
        self.skipped += seconds
        self._data.postpone(self._ttl_us, round(seconds * 1_000_000))
        retention: list[asyncio.TimerHandle] = []

        def moved(timer: asyncio.TimerHandle) -> float:
            if not retention and role_of(timer) == "retention" and not timer.cancelled():
                # expired instances are removed before a reader can see them; one node is enough for that
                retention.append(timer)
                return 0.0
            return seconds if _is_poll(timer) else 0.0

        self._clock.jump(seconds, moved)
        due_us = self._journal.next_due_us()
        claim = due_us is not None and self._clock.at(due_us) - self._clock.elapsed() < SOON
        for member in members:
            member.look(claim=claim)

    def _is_ready(self, claimed: set[str]) -> bool:
        """Whether an instance waits that a node would claim."""
        ready = self._data.first(self._ready, MAX_READY)
        if len(ready) == MAX_READY:
            return True
        kinds = {self._keys.unescaped(key[len(self._ready) :].split("/", 1)[0]) for key in ready}
        return not kinds.isdisjoint(claimed)

    def _until_due(self, *, claims: bool) -> float:
        """Seconds until just before the store has something due; less than `MIN_JUMP` when it has that already."""
        clock, now = self._clock, self._clock.elapsed()
        # what is overdue while no node has a free worker waits for the end of a body
        due_us = self._journal.next_due_us(0 if claims else clock.time_us())
        times = [clock.at(us) for us in (due_us, self._journal.next_nominal_us()) if us is not None]
        return min(times, default=float("inf")) - EARLY - now


def _is_poll(timer: asyncio.TimerHandle) -> bool:
    return role_of(timer) in POLLS or getattr(_callback(timer), "__func__", None) is ClaimLoop._report


def _callback(timer: asyncio.TimerHandle) -> object:
    return getattr(timer, "_callback", None)
