"""Plans and plays the cases: each class of stored value × each kind of damage, many at a time."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from .damages import damages_of
from .jobs import DURABLE
from .logs import NAMESPACE, CaseLogs
from .scenario import REPEATED, Scenario
from .values import Holder, Redis, Value

AT_ONCE = 12
"""Cases that are played at the same time."""
CASE_SECONDS = 90.0
MAX_ERRORS = 12
"""Most ERROR lines of the two nodes of a case: each node reports a damaged value once, from a few places."""
MAX_LATE_ERRORS = 2
"""Most ERROR lines in the last second of a case, when all was reported."""
_OWN = ("state/", "args/", "i.", "i/", "a/", "k/")
"""The classes that hold an instance itself. Only such a damage may lose the instance, or let it stay as it is: with
another kind, for example, no node runs it."""


class Case(msgspec.Struct, frozen=True):
    """One class of value and one damage."""

    name: str
    damage: str

    def __str__(self) -> str:
        return f"{self.name}: {self.damage}"


_VALID = frozenset({Case("slot/NAME", "field 1 is []")})
"""Damages that make another valid value: nothing tells that instances waited for the slot."""


class Drawn(msgspec.Struct, frozen=True):
    """A case that a seed draws from what the store holds: the cases of one seed have different classes."""

    seed: int
    number: int

    def case(self, values: Sequence[Value]) -> Case:
        """The case among these values."""
        names = sorted({value.name for value in values})
        name = random.Random(self.seed).sample(names, len(names))[self.number % len(names)]
        cases = {Case(name, damage) for value in values if value.name == name for damage in damages_of(value)}
        return random.Random(f"{self.seed} {self.number}").choice(sorted(cases - _VALID, key=str))


class Verdict(msgspec.Struct, frozen=True):
    """What a case showed."""

    case: Case
    problems: list[str]
    logs: list[tuple[str, int]] = []
    where: str = ""

    def __str__(self) -> str:
        return "\n    ".join(map(str, (self.case, self.where, *self.problems, *self.logs)))


async def plan(holder: Holder, namespace: str) -> list[Case]:
    """All cases of a store: what a namespace holds while two nodes work, and what can happen to each value."""
    scenario = Scenario(holder.url(namespace), namespace)
    await scenario.begin()
    values = await asyncio.to_thread(holder.values, namespace, scenario.names)
    await scenario.close()
    cases = {Case(value.name, damage) for value in values for damage in damages_of(value)}
    return sorted(cases - _VALID, key=str)


def share(cases: Sequence[Case], count: int, seed: int) -> list[Case]:
    """Some of the cases, chosen by a seed; each class comes before any class comes twice."""
    draw = random.Random(seed)
    by_class: dict[str, list[Case]] = {}
    for case in cases:
        by_class.setdefault(case.name, []).append(case)
    chosen: list[Case] = []
    while len(chosen) < count and by_class:
        for name in draw.sample(sorted(by_class), len(by_class)):
            chosen.append(by_class[name].pop(draw.randrange(len(by_class[name]))))
            if not by_class[name]:
                del by_class[name]
    return chosen[:count]


async def play(
    holder: Holder, cases: Sequence[Case | Drawn], logs: CaseLogs, *, prefix: str, at_once: int = AT_ONCE
) -> AsyncIterator[Verdict]:
    """Play the cases, each in a namespace of its own, and yield each verdict when it is known."""
    gate = asyncio.Semaphore(at_once)

    async def one(number: int, case: Case | Drawn) -> Verdict:
        async with gate:
            namespace = f"{prefix}{number:04d}x"
            context = contextvars.copy_context()
            context.run(NAMESPACE.set, namespace)
            # the tasks of the nodes inherit the context, so each log line is found by its case
            return await asyncio.create_task(_play(holder, case, logs, namespace), context=context)

    for verdict in asyncio.as_completed([one(number, case) for number, case in enumerate(cases)]):
        yield await verdict


async def _play(holder: Holder, wanted: Case | Drawn, logs: CaseLogs, namespace: str) -> Verdict:
    scenario = Scenario(holder.url(namespace), namespace)
    case = wanted if isinstance(wanted, Case) else Case("", "")
    logs.lines[namespace].clear()
    where, damaged_at = "", time.monotonic()
    try:
        async with asyncio.timeout(CASE_SECONDS):
            await scenario.begin()
            if isinstance(wanted, Drawn):
                case = wanted.case(await asyncio.to_thread(holder.values, namespace, scenario.names))
            value = await _victim(holder, scenario, case)
            damaged_at = time.monotonic()
            if value is None:
                return Verdict(case, [], where="no such value")
            where = f"{value.key!r} {value.data[:80]!r}"
            await asyncio.to_thread(damages_of(value)[case.damage], holder)
            lost, good = _excused(holder, scenario, value)
            await scenario.go_on(lost=lost, good=good)
            stay = lost if value.name.startswith(_OWN) else frozenset[str]()
            await scenario.end(lost=lost, stay=stay, drains=isinstance(holder, Redis) is False and len(good) > 1)
            at = time.monotonic()
            await asyncio.sleep(1)
            late = logs.loud(namespace, at).total()
            if late > MAX_LATE_ERRORS:
                scenario.problems.append(f"{late} ERROR lines in the last second")
    except Exception as error:  # noqa: BLE001  # the verdict names it, and the other cases go on
        scenario.problems.append(f"the case ends with {type(error).__name__}: {error}"[:300])
    finally:
        await scenario.close()
    loud = logs.loud(namespace, damaged_at)
    if loud.total() > MAX_ERRORS:
        scenario.problems.append(f"{loud.total()} ERROR lines")
    if any(problem.startswith(REPEATED) for problem in scenario.problems):
        told = logs.leases(namespace, damaged_at)
        scenario.problems.append(f"leases, from the damage on: {told or 'none was lost'}")
    return Verdict(case, scenario.problems, loud.most_common(5), where)


async def _victim(holder: Holder, scenario: Scenario, case: Case) -> Value | None:
    """The value to damage: of several ones, the one that belongs to work that is still to be done."""
    # a value can be away for a moment, such as a hint that a node has just read
    for _ in range(20):
        values = await asyncio.to_thread(holder.values, scenario.namespace, scenario.names)
        fitting = [value for value in values if value.name == case.name and case.damage in damages_of(value)]
        if fitting:
            return min(fitting, key=lambda value: _rank(value, scenario))
        await asyncio.sleep(0.05)
    return None


def _rank(value: Value, scenario: Scenario) -> int:
    text = value.key.encode() + value.part + value.data
    ids = [str(scenario.known[name].id).encode() for name in ("delayed", "running")]
    wanted = [*ids, b"VICTIM", b"QUICK", b"TICK"]
    return next((at for at, word in enumerate(wanted) if word in text), len(wanted))


def _excused(holder: Holder, scenario: Scenario, value: Value) -> tuple[frozenset[str], tuple[str, ...]]:
    """The runs that the damage may lose, and the schedules that must go on."""
    place = value.key.encode() + value.part
    name = next((name for id, name in scenario.names.items() if id.encode() in place), "")
    own = value.name.startswith(_OWN) or isinstance(holder, Redis)
    about_victim = "VICTIM" in value.key or b"VICTIM" in value.part + value.data
    lost = next((group for group in DURABLE if name in group), {name} if name and own else set())
    return frozenset(lost), ("GOOD",) if about_victim else ("GOOD", "VICTIM")
