"""Two or three calls of one instance each at once.

*Races*: some order of the calls on copies of the reference must give the answers and the state of the engine. A turn is
two calls, its commit and its claim. A reap is a call for each incarnation whose claims it takes back: another call can
claim what one of them held, of an incarnation that the reap ends later. The ends of all calls are followed up at once,
or after a call that comes later.

*Time*: on a clock that runs during the race, each call has a time of its own. An engine can take it before the call
comes to its turn, or between two steps of the call. So the times can have another order than the calls, or be equal.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise, permutations, product
from typing import Any

from peerjob.model.record import Reaped, Record
from peerjob.model.state import State
from peerjob.store.base import Store

from .choices import Chosen, chosen_by
from .compare import Raised
from .fire_generator import KINDS
from .flow_calls import flows_of
from .known import Known, Made
from .leniency import AFTER_RACE
from .limit_calls import keys_of, limits_of
from .names import Side
from .readback import without_zeros
from .reference import Reference
from .verdict import Blurred

Compare = Callable[[Made, Any, Any], list[str]]
Answer = Callable[[Made, Side], Awaitable[Any]]
Changed = Callable[[int], bool]
"""Whether something can have changed by itself since a time."""


class Race:
    """One race: its calls, and what the engine answered."""

    def __init__(self, mades: Sequence[Made], ours: Side, theirs: Side, known: Known, reference: Reference) -> None:
        self._mades = mades
        self._ours = ours
        self._theirs = theirs
        self._known = known
        self._reference = reference
        self._answers: list[Any] = []
        self._steps: list[tuple[Made, Any]] = []
        """The calls of the reference, each with the answer of the engine."""
        self._pairs: list[tuple[int, int]] = []
        """The steps of which the first one comes first, by their places."""
        self._partly: set[int] = set()
        """The places of the steps of a reap before its last one."""
        self._gone: Collection[str] = ()
        self._began_us = self._ended_us = 0

    async def run(self, answer: Answer, now_us: Callable[[], int]) -> None:
        """Make all calls of the engine at once."""
        self._began_us = now_us()
        calls = (answer(made, self._theirs) for made in self._mades)
        self._answers = await asyncio.gather(*calls)
        self._ended_us = now_us()
        for made, answered in zip(self._mades, self._answers, strict=True):
            place, steps = len(self._steps), list(_steps_of(made, answered))
            self._steps += steps
            if made.verb == "reap":
                self._partly |= {*range(place, place + len(steps) - 1)}
            if not self._may_claim_first(made):
                self._pairs += pairwise(range(place, place + len(steps)))

    def _may_claim_first(self, made: Made) -> bool:
        """*Choice*: a turn can claim first if a claim rarely depends on its outcomes."""
        linked = self._reference.linked(made.untold) or not self._known.durable.isdisjoint(made.untold)
        return linked or made.ends

    @property
    def _reaped(self) -> frozenset[str]:
        answers = (answer for made, answer in zip(self._mades, self._answers, strict=True) if made.verb == "reap")
        return frozenset(id for answer in answers for id in chosen_by("reap", answer).reaped or ())

    async def judge(self, answer: Answer, compare: Compare, gone: Collection[str], changed: Changed) -> list[str]:
        """Find an order of the calls that explains the answers, and adopt it; otherwise the differences of each.

        It raises `Blurred` if the engine is in another state, and that can have changed by itself since the race.
        """
        self._gone = gone
        before, tried = self._state(), list[str]()
        for order, late in self._orders():
            found = list[str]()
            for times in self._times():
                differences = await self._differences(order, times, late, answer, compare, changed)
                if not differences:
                    return []
                found = found or differences
                self._restore(before)
            if not late:
                tried.append(f"in order {[self._steps[place][0].verb for place in order]}: {'; '.join(found[:3])}")
        return ["no order explains the race", *tried]

    def _orders(self) -> Iterator[tuple[Sequence[int], int]]:
        """The orders that the steps can have, each with the number of steps whose ends are followed up later."""
        for late in range(max(1, len(self._steps)) if self._known.flowing else 1):
            for order in permutations(range(len(self._steps))):
                if all(order.index(first) < order.index(second) for first, second in self._pairs):
                    yield order, late

    def _times(self) -> Iterator[Sequence[int]]:
        """The times that the calls of one order can have, the likeliest ones first."""
        count, middle_us = len(self._steps), (self._began_us + self._ended_us) // 2
        yield [middle_us + (place if self._runs else 0) for place in range(count)]
        for steps in product(range(count), repeat=count) if self._runs else ():
            if {*steps} == {*range(max(steps) + 1)}:
                yield [middle_us + step for step in steps]

    @property
    def _runs(self) -> bool:
        """Whether the clock ran during the race."""
        return self._began_us < self._ended_us

    async def _differences(
        self, order: Sequence[int], times: Sequence[int], late: int, answer: Answer, compare: Compare, changed: Changed
    ) -> list[str]:
        left = set(self._gone)
        refused: dict[str, int] = {}
        for number, (time_us, place) in enumerate(zip(times, order, strict=True)):
            made, theirs = self._steps[place]
            chosen = chosen_by(made.verb, theirs)
            chosen.partly, chosen.settles_later = place in self._partly, number < late
            # *Choice*: a leave hands back one claim after the other; other calls come before and after each
            chosen.beside_leave = any(other.verb == "leave" for other in self._mades)
            chosen.others = self._reaped
            self._reference.follow(chosen)
            self._reference.note_empty(made)
            self._reference.at(time_us)
            ours = await answer(made, self._ours)
            if made.verb == "spawn" and theirs is None and ours is not None:
                # *Choice*: the end of the parent can come after the child was added, and before the answer
                ours = None
                refused |= {parent: self._known.claims.get(parent, 0) for parent in made.ids}
            if not isinstance(ours, Raised) and not isinstance(theirs, Raised):
                made.learn({self._ours: ours, self._theirs: theirs})
            if found := chosen.objections + compare(made, ours, theirs):
                return found
            self._reference.at(self._ended_us)
            if number == late:
                self._reference.settle()
            if now := left & self._reference.removable():
                self._reference.remove(now)
                left -= now
        for parent, claim in refused.items():
            if parent in self._reference.running() and self._known.claims.get(parent, 0) == claim:
                return [f"refused children of {parent}, which runs on"]
        if left:
            return [f"removed {sorted(left)}, whose retention is not over"]
        self._reference.follow(Chosen())
        logged = {id for made in self._mades for id in made.logged}
        records = [await _records(side.store, self._known, logged) for side in (self._ours, self._theirs)]
        found = compare(_READ, *records)
        if found and changed(self._ended_us):
            raise Blurred
        return found

    def _state(self) -> list[Any]:
        sides = [(side.fences, side.revisions, side.terms) for side in (self._ours, self._theirs)]
        known = {name: value for name, value in vars(self._known).items() if name not in ("ids", "made")}
        return [self._reference.copied(), copy.deepcopy(sides), copy.deepcopy(known)]

    def _restore(self, state: list[Any]) -> None:
        state = [state[0], *copy.deepcopy(state[1:])]
        self._reference.adopt(state[0])
        for side, (fences, revisions, terms) in zip((self._ours, self._theirs), state[1], strict=True):
            side.fences, side.revisions, side.terms = fences, revisions, terms
        vars(self._known).update(state[2])


def _steps_of(made: Made, answer: Any) -> Iterable[tuple[Made, Any]]:
    """The steps of a call, each with its part of the answer."""
    if isinstance(answer, Raised):
        return [(made, answer)]
    if made.verb == "reap":
        return [(made, part) for part in _parts_of_reap(answer)]
    return zip(made.parts, answer, strict=False) if made.parts else [(made, answer)]


def _parts_of_reap(reaped: Sequence[Reaped]) -> Iterator[list[Reaped]]:
    """What a reap took back, for each node. The last part is empty: it ends the incarnations without claims."""
    part: list[Reaped] = []
    for one in reaped:
        if part and (one.node != part[0].node or any(one.id == other.id for other in part)):
            yield part
            part = []
        part.append(one)
    if part:
        yield part
    yield []


async def _read(side: Side) -> None:
    return None


_READ = Made(AFTER_RACE, _read)


async def _records(store: Store, known: Known, logged: Collection[str]) -> dict[str, Any]:
    """What tells most about the state: all records, what is due, and which nodes are alive."""
    # a read of all counters corrects them if the answer to a request never came
    counts = (await store.health()).counts
    found: dict[str, Any] = {"counts": without_zeros(counts), "due": await store.due(), "nodes": await store.nodes()}
    if known.flowing:
        found |= await flows_of(store, known.instances)
    if known.limited:
        found |= await keys_of(store, KINDS, 100)
        found["running"] = {view.name: view.running for view in await limits_of(store, 100)}
    records: list[Record] = []
    for start in range(0, len(known.instances), 100):
        ids = known.instances[start : start + 100]
        answers = await store.get(ids)
        found |= dict(zip(ids, answers, strict=True))
        records += [record for record in answers if record is not None]
    waiting = [record for record in records if record.state == State.SCHEDULED]
    # the order tells more than times that differ by less than a call takes
    waiting.sort(key=lambda record: (record.priority, record.due_us, record.id))
    found["order"] = [record.id for record in waiting]
    for id in logged:
        found[f"logs {id}"] = await store.logs(id)
    return found
