"""Gives free permits of limit keys to instances that wait, after commands that cannot do so themselves."""

from __future__ import annotations

from collections.abc import Mapping, Set
from contextlib import suppress

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.store.kv.format.base import Compare, Delete, KeyValue
from peerjob.store.kv.format.keys import Keys, timed
from peerjob.store.kv.format.limit_rows import KeyPermit, Waiting
from peerjob.store.kv.index.counts import READY

from .gates import CONCURRENCY, Gate, Gates, KeyState, Waiter, none_waits
from .hints import Hints, Wakeups
from .limit_rules import LimitsInUse
from .transaction_plan import Change, TransactionPlan
from .writer import ROUNDS, Writer

_AHEAD = 60
"""Most instances that one round lets past a gate."""


class Settling:
    """Settles limit keys."""

    def __init__(
        self, kv: KeyValue, keys: Keys, clock: Clock, gates: Gates, rules: LimitsInUse, writer: Writer, hints: Hints
    ) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._gates = gates
        self._limit_rules = rules
        self._writer = writer
        self._hints = hints

    async def settle(self, came: Mapping[Gate, Set[str]]) -> None:
        """Let instances pass the gates of some limit keys. `came` has the ids that a command has just brought to each.

        An instance that came has its due time as its place in the queue; one that waited before, the present time.
        """
        left = dict(came)
        try:
            await self._open(left)
        except BaseException:
            self._writer.owe(left)
            raise

    async def open_owed(self) -> None:
        """Settle the limit keys that failed calls have left. If this fails, they stay for the next call."""
        came: dict[Gate, set[str]] = {}
        for gate, id in self._writer.owed:
            came.setdefault(gate, set()).add(id)
        self._writer.owed = set()
        with suppress(StoreError):
            await self.settle(came)

    async def _open(self, left: dict[Gate, Set[str]]) -> None:
        failures = 0
        while left:
            if failures == 8 * ROUNDS:
                raise StoreUnavailableError(self._keys.root[:-1], "too many writers at once")
            rules = await self._limit_rules.current()
            states = await self._gates.read(sorted(left), rules, ahead=_AHEAD)
            changes: list[Change] = []
            wakeups = Wakeups()
            for gate, state in states.items():
                plans = self._passes(state, left[gate]) or await self._exchanges(state, left[gate])
                plans = plans or self._ends(state)
                for plan in plans:
                    wakeups.add_queued(plan)
                    changes.append(plan.change())
                if not plans:
                    del left[gate]
            written = await self._writer.write(changes, guards=[rules.stamp])
            failures += not all(written.revisions)
            await self._hints.send(wakeups, written)

    def _passes(self, state: KeyState, came: Set[str]) -> list[TransactionPlan]:
        """The transactions that give free permits to the first waiting instances, one for each of them."""
        now_us, plans = self._clock.time_us(), list[TransactionPlan]()
        numbers = state.free(state.waiting[0].id) if state.waiting else ()
        for waiter, number in zip(state.waiting, numbers, strict=False):
            plan = TransactionPlan(self._keys, now_us)
            plan.compares.append(Compare(state.permit(number)))
            plan.admit_waiter(state, number, waiter, waiter.due_us if waiter.id in came else now_us)
            plans.append(plan)
        return plans

    def _ends(self, state: KeyState) -> list[TransactionPlan]:
        """The transaction that removes the concurrency of a limit key whose instances are all gone, if none comes."""
        if not state.is_over:
            return []
        plan, stored = TransactionPlan(self._keys, self._clock.time_us()), state.prefix + CONCURRENCY
        none_is_admitted = Compare(state.permit(0), end=stored)
        plan.compares += [Compare(stored, mod=state.stored_mod), none_is_admitted, none_waits(self._keys, state.gate)]
        plan.ops.append(Delete(stored))
        return [plan]

    async def _exchanges(self, state: KeyState, came: Set[str]) -> list[TransactionPlan]:
        """The transaction in which an instance that came changes places with the last admitted one.

        It has a better priority, and the other one is not claimed.
        """
        known = [(mod, permit, number) for number, (mod, permit) in state.permits.items() if permit is not None]
        comer = next((waiter for waiter in state.waiting if waiter.id in came), None)
        if comer is None or not known:
            return []
        mod, last, number = max(known, key=lambda item: (item[0], item[1].priority, item[1].due_us, item[1].id))
        if last.priority <= comer.priority:
            return []
        queue = self._keys.ready(state.gate[0], last.priority, suspect=last.suspect)
        entry = queue + timed(last.queued_us, last.id)
        (queued,) = await self._kv.get([entry])
        if queued is None:
            return []
        return [self._exchange(state, comer, last, number, Compare(entry, mod=queued.mod), mod)]

    def _exchange(
        self, state: KeyState, comer: Waiter, last: KeyPermit, number: int, queued: Compare, mod: int
    ) -> TransactionPlan:
        plan = TransactionPlan(self._keys, self._clock.time_us())
        plan.compares += [queued, Compare(state.permit(number), mod=mod)]
        plan.ops.append(Delete(queued.key))
        plan.shifts.append((state.gate[0], READY, -1))
        plan.wait(state.gate, last.id, last.priority, last.due_us, Waiting(last.suspect, state.number))
        plan.admit_waiter(state, number, comer, comer.due_us)
        return plan
