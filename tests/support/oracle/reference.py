"""The reference store, which follows the choices of an engine after it has checked them."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from heapq import merge

from peerjob.model.clock import Clock
from peerjob.model.durable import Need
from peerjob.model.record import Ack, Claimed, Outcome, StoreLimits, Want
from peerjob.model.state import State
from peerjob.store.reference.choices import Choices
from peerjob.store.reference.claim import claim
from peerjob.store.reference.commit import commit
from peerjob.store.reference.edges import settle
from peerjob.store.reference.ends import is_held, remove
from peerjob.store.reference.gates import finish
from peerjob.store.reference.retention import removable, set_aside
from peerjob.store.reference.shared_limits import RemainingByLimits, opens_us, rules_of
from peerjob.store.reference.state import Edge, InstanceData, Namespace, Remembered
from peerjob.store.reference.store import ReferenceData, ReferenceStore
from peerjob.store.reference.transaction import ReferenceTransaction, Settled

from .choices import Chosen, Due, claim_objections
from .clocks import SteppedClock
from .damage import Damaged
from .invariants import broken, ended_wrong
from .known import Made

NAMESPACE = "reference"
JUST_ENDED = 4
"""Most instances that one call of a program ends."""


class Followed(Choices):
    """Chooses as the engine chose, and objects to what the contract does not leave to it."""

    def __init__(self, state: Namespace, chosen: Chosen, damaged: Damaged, *, strict: bool) -> None:
        self._state = state
        self._chosen = chosen
        self._damaged = damaged
        self._strict = strict
        self.transaction: ReferenceTransaction | None = None

    def claimed(self, ids: Sequence[str], want: Want) -> Sequence[str]:
        """The claims of the engine, as far as they are due."""
        chosen, instances = self._chosen, self._state.instances
        if chosen.claimed is None:
            return ids
        assert self.transaction is not None
        left = RemainingByLimits(self.transaction)
        queues = (queue for kind, queue in self._state.ready.items() if min(want.kinds.get(kind, 0), left.of(kind)) > 0)
        due = [
            Due(id, one.kind, one.suspect, len(one.spec))
            for one, id in ((instances[id], id) for _, _, id in merge(*queues))
        ]
        damaged = any(self._damaged.waiting[kind] and most > 0 for kind, most in want.kinds.items())
        chosen.objections += claim_objections(
            due, want, chosen.claimed, list(ids), strict=self._strict and not chosen.beside_leave, damaged=damaged
        )
        known = {one.id: one for one in due}
        for id in known.keys() & {*chosen.claimed}:
            if left.of(known[id].kind) <= 0:
                chosen.objections.append(f"claimed {chosen.claimed}, over a limit of kind {known[id].kind!r}")
            left.use(known[id].kind)
        return [id for id in chosen.claimed if id in known]

    def dead(self, incarnations: Sequence[str]) -> Sequence[str]:
        """The incarnations that the reap ends: one step of a reap ends those whose claims it takes back."""
        chosen, instances = self._chosen, self._state.instances
        if not chosen.partly:
            return incarnations
        owners = {instances[id].owner for id in chosen.reaped or () if id in instances}
        return [incarnation for incarnation in incarnations if incarnation in owners]

    def left(self, ids: Sequence[str]) -> Sequence[str]:
        """The claims that no reap took back while the incarnation left."""
        return [id for id in ids if id not in self._chosen.others]

    def reaped(self, ids: Sequence[str], limit: int) -> Sequence[str]:
        """The claims that the engine took back: as many as it may, in any order."""
        chosen, known = self._chosen, set(ids)
        if chosen.reaped is None:
            return ids[:limit]
        if unknown := [id for id in chosen.reaped if id not in known]:
            chosen.objections.append(f"took back {unknown}, which no dead incarnation holds")
        if len(chosen.reaped) != min(limit, len(ids)) and not (chosen.beside_leave or chosen.partly):
            chosen.objections.append(f"took back {chosen.reaped}, and dead incarnations hold {list(ids)}")
        return [id for id in dict.fromkeys(chosen.reaped) if id in known]

    def fire_us(self, number: int, now_us: int) -> int:
        """The time at which the engine has done a fire: it can do the fires of a call one after the other."""
        times = self._chosen.fired_us[: number + 1]
        return next((one for one in reversed(times) if one), now_us)

    def removed(self, ids: Sequence[str], limit: int) -> Sequence[str]:
        """The instances that the engine removed, if that is known; otherwise they are removed after the call."""
        chosen = self._chosen
        if chosen.removes_all:
            return ids[:limit]
        if chosen.gone is None:
            chosen.may_remove = max(chosen.may_remove, limit)
            return ()
        if len(chosen.gone) > min(limit, len(ids)):
            chosen.objections.append(f"removed {sorted(chosen.gone)}, and may remove {limit} of {len(ids)}")
        # *Choice*: which of too many final instances of a kind are the oldest; see `Reference.removable`
        return sorted(chosen.gone)


@dataclass
class FollowedTransaction(ReferenceTransaction):
    """A transaction of a run."""

    looks_again: bool = False

    def answered(self, caller: str, command: str, request: str) -> Remembered | None:
        """The answer to an earlier run. *Choice*: a claim that found nothing may look again if it is repeated."""
        known = super().answered(caller, command, request)
        if known is None or not self.looks_again:
            return known
        return None if isinstance(known.answer, Claimed) and not known.answer.claims else known


class FollowedData(ReferenceData):
    """The data of one run, and the choices that the next call follows."""

    def __init__(self, *, strict: bool) -> None:
        super().__init__()
        self.chosen = Chosen()
        self.damaged = Damaged()
        self.unsettled: list[Settled] = []
        """What calls have ended that settle later."""
        self._strict = strict

    @contextlib.contextmanager
    def transaction(
        self, namespace: str, clock: Clock, limits: StoreLimits, choices: Choices
    ) -> Generator[ReferenceTransaction]:
        state = self.namespaces.setdefault(namespace, Namespace())
        followed = Followed(state, self.chosen, self.damaged, strict=self._strict)
        followed.transaction = FollowedTransaction(
            state, clock.time_us(), limits, followed, looks_again=bool(self.chosen.claimed)
        )
        yield followed.transaction
        if self.chosen.settles_later:
            self.unsettled += followed.transaction.settling
        else:
            settle(followed.transaction)
        finish(followed.transaction)


class FollowedStore(ReferenceStore):
    """The reference, which takes the order of the engine within a turn."""

    _data: FollowedData

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        if want is None or not self._data.chosen.claims_first:
            return await super().turn(incarnation, outcomes, want, request=request)
        claimed = await self.turn_claim(incarnation, want, request=request)
        return await self.turn_commit(incarnation, outcomes, request=request), claimed

    async def turn_commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        """The commit of a turn."""
        with self._transaction() as transaction:
            return commit(transaction, incarnation, outcomes, request=request, command="turn-commit")

    async def turn_claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        """The claim of a turn."""
        with self._transaction() as transaction:
            return claim(transaction, incarnation, want, request=request, command="turn-claim")


class Reference:
    """The reference of one run, with its clock."""

    def __init__(self, limits: StoreLimits, *, strict: bool) -> None:
        self._clock = SteppedClock()
        self._limits = limits
        self._data = FollowedData(strict=strict)
        self._seen = Namespace()
        self.store = FollowedStore(self._data, clock=self._clock, limits=limits, namespace=NAMESPACE)

    @property
    def _state(self) -> Namespace:
        return self._data.namespaces.setdefault(NAMESPACE, Namespace())

    def _transaction(self) -> ReferenceTransaction:
        return ReferenceTransaction(self._state, self._clock.now_us, self._limits)

    @property
    def now_us(self) -> int:
        """The time."""
        return self._clock.now_us

    def at(self, now_us: int) -> None:
        """Set the clock."""
        self._clock.now_us = now_us

    def follow(self, chosen: Chosen) -> None:
        """Take these choices in the next call."""
        self._data.chosen = chosen

    def thresholds(self) -> list[int]:
        """The times at which something changes by itself."""
        state = self._state
        times = [due_us for due_us, _ in state.delayed] + [expires_us for expires_us, _ in state.expiring]
        for limit in state.shared_limits.values():
            numbers = limit.numbers
            # each of these moments allows one more claim
            times += [limit.closed_us, *(limit.tat_us - number * numbers.period_us for number in range(numbers.burst))]
        return times + [node.expires_us + 1 for node in state.nodes.values() if not node.ended]

    # -- what an engine removes by its own choice

    def instances(self) -> set[str]:
        """All instances."""
        return set(self._state.instances)

    def running(self) -> set[str]:
        """The instances that run."""
        return {id for id, one in self._state.instances.items() if one.state is State.PROCESSING}

    def linked(self, ids: Collection[str]) -> bool:
        """Whether one of these instances has steps, signals, children or a parent."""
        state = self._state
        found = [state.instances[id] for id in ids if id in state.instances]
        return any(one.steps or one.parent or one.id in state.children for one in found)

    def removable(self) -> set[str]:
        """The instances that an engine may remove at this moment.

        *Choice*: of a kind with too many final instances, those go that were created first, or those that would leave
        first. An engine may remove them before it adds the ones that have just ended.
        """
        return set(removable(self._transaction())) | set(self._leaving_first())

    def _leaving_first(self) -> list[str]:
        transaction = self._transaction()
        finals = Counter(
            one.kind for one in self._state.instances.values() if one.state.is_final and not is_held(transaction, one)
        )
        over: dict[str, list[str]] = {}
        for _, id in self._state.expiring:
            over.setdefault(self._state.instances[id].kind, []).append(id)
        # those whose bodies still run count as final, but cannot be removed
        surplus = {kind: count - self._limits.max_final_per_kind for kind, count in finals.items()}
        return [id for kind, ids in over.items() if surplus[kind] > 0 for id in ids[: surplus[kind] + JUST_ENDED]]

    def finals(self) -> int:
        """The number of final instances."""
        return sum(one.state.is_final for one in self._state.instances.values())

    def expired(self) -> set[str]:
        """The instances whose retention is over."""
        return {id for expires_us, id in self._state.expiring if expires_us <= self._clock.now_us}

    def remove(self, gone: Collection[str]) -> None:
        """Remove what the engine removed."""
        transaction = self._transaction()
        for id in gone:
            remove(transaction, self._state.instances[id])
        finish(transaction)

    def set_aside(self, id: str, damaged: Damaged) -> None:
        """Do what an engine does with a record that it cannot read; `damaged` notes the instance."""
        damaged.add(self._state.instances[id])
        transaction = self._transaction()
        set_aside(transaction, id)
        settle(transaction)
        finish(transaction)
        self._data.damaged = damaged

    # -- what a repeated call need not answer as before

    def note_empty(self, made: Made) -> None:
        """Note the reports of a call that write nothing, before the call comes first."""
        made.empty.clear()
        made.empty.update(place for place, report in made.reports.items() if self._is_empty(report))

    def _is_empty(self, report: Outcome) -> bool:
        """Whether a report has nothing that its instance does not have."""
        instance = self._state.instances.get(report.id)
        if instance is not None and instance.releasing:
            return True  # it was cancelled, so nothing is written
        if instance is None or report.logs or report.progress is not None or report.started > instance.started:
            return False
        return all(step.name in instance.steps for step in report.steps) and not any(
            self._is_new(instance, need) for need in report.needs
        )

    def _is_new(self, instance: InstanceData, need: Need) -> bool:
        """Whether an instance does not have a need that it can have."""
        needed = self._state.instances.get(need.id)
        edge = Edge(instance.id, instance.fence, need.when)
        can_need = needed is not None and needed.parent == instance.id and not needed.over
        return can_need and edge not in self._state.edges.get(need.id, ())

    # -- what idle nodes can run

    def is_alive(self, incarnation: str) -> bool:
        """Whether an incarnation has a lease."""
        node = self._state.nodes.get(incarnation)
        return node is not None and node.alive(self._clock.now_us)

    def has_ended(self, incarnation: str) -> bool:
        """Whether an incarnation has left, or was marked as dead."""
        node = self._state.nodes.get(incarnation)
        return node is not None and bool(node.ended)

    def ready_kinds(self) -> dict[str, list[str]]:
        """The kinds with a due instance that each node with the kind can claim, and which share a limit with each."""
        instances, left = self._state.instances, RemainingByLimits(self._transaction())
        return {
            kind: self._sharing(kind)
            for kind, queue in self._state.ready.items()
            if left.of(kind) > 0 and any(not instances[id].suspect for _, _, id in queue)
        }

    def ready(self) -> set[str]:
        """The instances in the queues of their kinds."""
        return {id for queue in self._state.ready.values() for _, _, id in queue}

    def room_for(self, ids: Collection[str]) -> dict[str, int]:
        """The kinds of some instances, and how many more claims of each its limits allow."""
        return {kind: self.remaining(kind) for kind in {self._state.instances[id].kind for id in ids}}

    def _sharing(self, kind: str) -> list[str]:
        """The kinds that share a limit with a kind, and itself."""
        names = set(rules_of(self._transaction(), kind).names)
        rules = self._state.kind_rules
        return [kind, *(other for other in rules if other != kind and names.intersection(rules[other].names))]

    def remaining(self, kind: str) -> int:
        """How many more claims of a kind its limits allow."""
        return RemainingByLimits(self._transaction()).of(kind)

    def moments(self) -> list[int]:
        """When claims are possible that time alone prevents now: of delayed instances, and of limits."""
        closed = (opens_us(limit, self.now_us) for limit in self._state.shared_limits.values())
        opening = [moment_us for moment_us in closed if moment_us]
        return opening and [*opening, *(due_us for due_us, _ in self._state.delayed[:1])]

    def broken(self) -> list[str]:
        """The invariants that do not hold now, or that a call since the last look broke."""
        found = [*broken(self._state), *ended_wrong(self._seen, self._state)]
        self._seen = self.copied()
        return found

    # -- races

    def settle(self) -> None:
        """Follow up what calls have ended that settle later."""
        transaction = self._transaction()
        transaction.settling, self._data.unsettled = self._data.unsettled, []
        settle(transaction)
        finish(transaction)

    def copied(self) -> Namespace:
        """A copy of the state."""
        return copy.deepcopy(self._state)

    def adopt(self, state: Namespace) -> None:
        """Take a copy of a state."""
        self._data.namespaces[NAMESPACE] = copy.deepcopy(state)
        self._data.unsettled = []
