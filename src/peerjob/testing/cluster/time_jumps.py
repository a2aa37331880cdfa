# pyright: reportPrivateUsage=false
# this file recognizes the timer that reports log lines and progress by the private method that the timer calls
"""Jumps over stretches of time in which a cluster only polls.

Time jumps to just before the next due time while nothing is claimed, committed or overdue, and no fault is in effect.
Roles that only poll each second (`POLLS`) do not notice a jump: their timers keep their remaining time, and no lease
gets older. All other timers limit a jump, those of bodies included, and so do due times in the store. A jump thus
skips only polls that find nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from peerjob.node.work.unsent_reports import UnsentReports
from peerjob.store.kv.format.keys import Keys

from .clocks import ClusterClock
from .cluster_node import ClusterNode
from .connections import SharedData
from .journal import EventJournal
from .node_tasks import belongs_to, role_of

POLLS = frozenset({"lease", "election", "reaper", "claim loop", "hints", "cron", "waiters", "watchers", "retention"})
"""Roles whose timers move with a time jump, so that the timers keep their remaining time."""
MIN_JUMP = 2.0
"""Shortest jump in seconds. Polls of a role are at most this far apart."""
EARLY = 0.005
"""Seconds by which a jump ends before the due time. The nodes wait through these seconds as without jumps."""
SOON = 1.2
"""Seconds that can pass before a node polls. If an instance is due earlier, the jump wakes the claim loops."""
MIN_QUIET = 15.0
"""Seconds without a jump after a fault. With long leases, the period is longer."""
MAX_READY = 50
"""Most keys of ready instances that are read, and most limit keys. With as many ready instances, no jump is made."""


class TimeJumps:
    """Decides when time jumps, and how far."""

    def __init__(
        self,
        *,
        clock: ClusterClock,
        data: SharedData,
        journal: EventJournal,
        members: Callable[[], Iterable[ClusterNode]],
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
        self._gates = f"{keys.head(keys.waits)}/"
        self._ttl_us = ttl_us
        self._quiet = max(MIN_QUIET, 4 * ttl_us / 1_000_000)
        self._quiet_until = clock.steady + self._quiet
        self.count = 0
        """Number of jumps."""
        self.skipped = 0.0
        """Total of the skipped seconds."""

    def remember_disturbance(self) -> None:
        """Allow no jump until the cluster had time to recover from a fault."""
        self._quiet_until = self._clock.steady + self._quiet

    def jump_if_idle(self) -> bool:
        """Jump if the cluster only polls, and return whether time jumped. Call it while the loop is at rest."""
        clock = self._clock
        if clock.steady < self._quiet_until or (idle := clock.idle_seconds(_is_poll)) < MIN_JUMP:
            return False
        if self._is_disturbed():
            self.remember_disturbance()
            return False
        members = [member for member in self._members() if member.lives]
        if not all(member.is_at_rest for member in members):
            return False
        claimed = {kind for member in members for kind in member.claims}
        if (claimed and self._is_ready(claimed)) or self._is_left_waiting():
            return False
        seconds = min(idle, self._until_due(claims=bool(claimed)))
        leader = next((member for member in members if member.is_leader), None)
        if not MIN_JUMP <= seconds < float("inf") or leader is None:
            return False
        self._jump(seconds, members, leader)
        return True

    def _jump(self, seconds: float, members: list[ClusterNode], leader: ClusterNode) -> None:
        self.count += 1
        self.skipped += seconds
        self._data.postpone(self._ttl_us, round(seconds * 1_000_000))

        def moved(timer: asyncio.TimerHandle) -> float:
            if role_of(timer) == "retention" and belongs_to(timer, leader.tasks):
                # the leader removes expired instances before a reader can see them
                return 0.0
            return seconds if _is_poll(timer) else 0.0

        self._clock.jump(seconds, moved)
        due_us = self._journal.next_due_us()
        claim = due_us is not None and self._clock.at(due_us) - self._clock.elapsed() < SOON
        for member in members:
            member.poll(claim=claim)

    def _is_ready(self, claimed: set[str]) -> bool:
        """Whether an instance is ready whose kind a node would claim."""
        ready = self._data.first(self._ready, MAX_READY)
        if len(ready) == MAX_READY:
            return True
        kinds = {self._keys.unescaped(key[len(self._ready) :].split("/", 1)[0]) for key in ready}
        return not kinds.isdisjoint(claimed)

    def _is_left_waiting(self) -> bool:
        """Whether instances wait for a limit key of which none is queued or claimed: a check of limits lets one go.

        This happens if a node dies after the write that takes back the last claim of a key, before it lets one go.
        """
        keys, first = self._keys, self._data.first
        gates = {keys.gate_of(head, self._gates) for head in first(self._gates, MAX_READY)}
        return any(first(keys.waiting(gate), 1) and not first(keys.key_permits(gate), 1) for gate in gates)

    def _until_due(self, *, claims: bool) -> float:
        """Return the seconds until just before the store's next due time. Below MIN_JUMP, no jump is made."""
        clock, now = self._clock, self._clock.elapsed()
        # ignore overdue instances while no node has a free worker: the instances wait for the end of a body
        due_us = self._journal.next_due_us(0 if claims else clock.time_us())
        times = [clock.at(us) for us in (due_us, self._journal.next_nominal_us()) if us is not None]
        return min(times, default=float("inf")) - EARLY - now


def _is_poll(timer: asyncio.TimerHandle) -> bool:
    return role_of(timer) in POLLS or getattr(_callback(timer), "__func__", None) is UnsentReports._report


def _callback(timer: asyncio.TimerHandle) -> object:
    return getattr(timer, "_callback", None)
