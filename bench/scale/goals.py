"""The goals of the grid, and whether a set of results reaches them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .cells import Cell

Result = dict[str, Any]
VERBS = ("enqueue", "claim", "commit")
_BASE = Cell(engine="", part="verbs").sizes


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One goal on one engine."""

    goal: str
    engine: str
    value: float
    limit: float
    unit: str
    at: str = ""
    """Which verb or size has the value."""

    @property
    def reached(self) -> bool:
        return self.value <= self.limit


def measured(results: Iterable[Result], engine: str, part: str, **sizes: int) -> list[Result]:
    """The measured cells of an engine and a part with these sizes, by their size."""
    found = [
        result
        for result in results
        if "found" in result
        and result["cell"]["engine"] == engine
        and result["cell"]["part"] == part
        and all(size_of(result["cell"], axis) == size for axis, size in sizes.items())
    ]
    return sorted(found, key=lambda one: [size_of(one["cell"], axis) for axis in _BASE])


def size_of(cell: Any, axis: str) -> int:
    """The size of a cell; that of the base, if the cell was measured before there was this axis."""
    return int(cell.get(axis, _BASE[axis]))


def axis_of(results: Sequence[Result], engine: str, part: str, axis: str) -> list[Result]:
    """The cells along one axis, all other sizes as in the base, in order."""
    found = measured(results, engine, part, **{one: size for one, size in _BASE.items() if one != axis})
    return sorted(found, key=lambda one: int(one["cell"][axis]))


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """All goals on all engines for which there are results."""
    engines = list(dict.fromkeys(result["cell"]["engine"] for result in results))
    found = [verdict for goal in _GOALS for engine in engines for verdict in goal(results, engine)]
    return sorted(found, key=lambda verdict: TITLES.index(verdict.goal))


def _growth(results: Sequence[Result], engine: str, axis: str, limit: float, goal: str) -> list[Verdict]:
    """The growth of CPU time at the largest size, with that of the operations, which no other work changes."""
    cells = axis_of(results, engine, "verbs", axis)
    if len(cells) < 2:
        return []
    first, last = cells[0]["found"], cells[-1]["found"]
    worst = max(VERBS, key=lambda verb: float(last["growth"][verb]))
    operations = last[worst]["operations"] / first[worst]["operations"]
    at = f"{worst} at {cells[-1]['cell'][axis]:,}; operations {operations:.2f} ×"
    return [Verdict(goal=goal, engine=engine, value=float(last["growth"][worst]), limit=limit, unit="×", at=at)]


def _queued(results: Sequence[Result], engine: str) -> list[Verdict]:
    return _growth(results, engine, "queued", 1.2, TITLES[0])


def _kinds(results: Sequence[Result], engine: str) -> list[Verdict]:
    return _growth(results, engine, "kinds", 2.0, TITLES[1])


def _idle(results: Sequence[Result], engine: str) -> list[Verdict]:
    rates: dict[str, dict[str, float]] = {"follower": {}, "leader": {}}
    for one in measured(results, engine, "idle"):
        for role, found in rates.items():
            found[described(one["cell"])] = float(one["found"][role]["requests"])
    for one in measured(results, engine, "schedules"):
        rates["leader"][described(one["cell"])] = float(one["found"]["idle"]["requests"])
    verdicts_of: list[Verdict] = []
    for title, role, limit in ((TITLES[2], "follower", 2.0), (TITLES[3], "leader", 5.0)):
        if of_role := rates[role]:
            worst = max(of_role, key=of_role.__getitem__)
            verdicts_of.append(
                Verdict(goal=title, engine=engine, value=of_role[worst], limit=limit, unit="a second", at=worst)
            )
    return verdicts_of


def described(cell: Any) -> str:
    """The sizes of a cell that differ from the base."""
    shown = (axis for axis, size in _BASE.items() if size_of(cell, axis) != size)
    return ", ".join(f"{cell[axis]:,} {axis}" for axis in shown) or "base"


def _hundred(results: Sequence[Result], engine: str) -> list[Verdict]:
    cells = measured(results, engine, "idle", nodes=100) if engine == "etcd" else []
    return [
        Verdict(goal=TITLES[4], engine=engine, value=float(one["found"]["server_cores"]), limit=0.3, unit="cores")
        for one in cells
    ]


def _schedules(results: Sequence[Result], engine: str) -> list[Verdict]:
    cells = measured(results, engine, "schedules")
    if len(cells) < 2:
        return []
    first, last = (one["found"]["fire"] for one in (cells[0], cells[-1]))
    growth = last.get("growth", last["leader_cpu_us"] / first["leader_cpu_us"])
    size = f"at {cells[-1]['cell']['schedules']:,}"
    return [Verdict(goal=TITLES[5], engine=engine, value=float(growth), limit=1.2, unit="×", at=size)]


TITLES = (
    "Claim, commit and enqueue within 20 % from 1,000 to 1,000,000 queued",
    "Claim, commit and enqueue within 2× from 10 to 10,000 kinds",
    "An idle follower sends at most 2 requests a second",
    "An idle leader sends at most 5 requests a second",
    "100 idle nodes on one etcd take at most 0.3 cores of it",
    "The leader's work for a fire is flat to 100,000 schedules",
)
_GOALS: tuple[Callable[[Sequence[Result], str], list[Verdict]], ...] = (
    _queued,
    _kinds,
    _idle,
    _hundred,
    _schedules,
)
