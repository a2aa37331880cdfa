"""What each test costs, and the budget that it has to keep; a plugin of pytest.

The cost is the larger one of two numbers, which other work on the machine hardly changes:

* the processor time of the test, of its fixtures and of the processes that ended meanwhile
* the time that it took, without the time in which some process of the machine waited for a processor

What a fixture of a module or a session takes is not the cost of the test that asks first, or that ends last.
"""

import resource
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import searches

BUDGETS = {"unit": 1.0, "integration": 10.0}
"""Seconds of a test, by the folder of `tests` that it is in."""
FACTOR = 3.0
"""Times its budget, from which the processor time of a test fails it: processors differ, and so do their caches."""
PAUSE = 30.0
"""Seconds above its budget, from which a wait fails a test: the machine itself may be paused."""
EXEMPT = ("long", "matrix", "soak", "compose")
"""Markers of the tests without a budget; nor has a search that looks at all of its cases one."""
LISTED = 20
"""Tests above their budget that the summary names."""

SUMMARY = "costs of the tests"
_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of the processors, and seconds that passed while no process waited for a processor."""

    cpu: float
    quiet: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(cpu=self.cpu + other.cpu, quiet=self.quiet + other.quiet)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(cpu=self.cpu - other.cpu, quiet=self.quiet - other.quiet)

    @property
    def seconds(self) -> float:
        return max(self.cpu, self.quiet)

    def exceeds(self, limit: float) -> bool:
        """Whether a test with this budget fails."""
        return self.cpu > limit * FACTOR or self.quiet > limit + PAUSE


NOTHING = Cost(cpu=0, quiet=0)


def so_far() -> Cost:
    """What this process has cost until now; where the machine does not tell how long processes wait, `quiet` is 0."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    try:
        waited = int(_PRESSURE.read_text().partition("\n")[0].rpartition("=")[2]) / 1_000_000
    except OSError:
        return Cost(cpu=cpu, quiet=0)
    return Cost(cpu=cpu, quiet=time.monotonic() - waited)


def budget(item: pytest.Item) -> float | None:
    """The budget of a test in seconds; None for a test without one."""
    if any(item.get_closest_marker(name) for name in EXEMPT) or searches.whole:
        return None
    return next((BUDGETS[part] for part in item.path.parts if part in BUDGETS), None)


class Meter:
    """Measures each test, and fails the one that costs much more than its budget."""

    def __init__(self) -> None:
        self._began = NOTHING
        self._shared = NOTHING
        """What fixtures of a wider scope have cost in the current test."""
        self._in_shared = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._began, self._shared = so_far(), NOTHING
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        if fixturedef.scope == "function" or self._in_shared:
            return (yield)
        began, self._in_shared = so_far(), True
        try:
            return (yield)
        finally:
            self._in_shared = False
            self._shared += so_far() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        began = so_far()
        try:
            return (yield)
        finally:
            # servers of a module or a session may end here, with all the processor time that they have used
            if nextitem is None or nextitem.path != item.path:
                self._shared += so_far() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            cost, limit = so_far() - self._began - self._shared, budget(item)
            report.user_properties += [("cost", cost.seconds), ("budget", limit)]
            if limit is not None and cost.exceeds(limit) and report.passed:
                report.outcome = "failed"
                report.longrepr = (
                    f"{item.nodeid} costs {cost.seconds:.1f} s, and has a budget of {limit:g} s: make it cheaper, "
                    'or give it @pytest.mark.long("why it takes so long") or @pytest.mark.matrix("why")'
                )
        return report


class Summary:
    """Names the tests above their budget at the end; has the costs of all tests, those of other processes too."""

    def __init__(self) -> None:
        self.costs: dict[str, float] = {}
        """Seconds, by the id of the test."""
        self._above: list[tuple[float, float, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        cost, limit = properties.get("cost"), properties.get("budget")
        if isinstance(cost, float):
            self.costs[report.nodeid] = cost
            if isinstance(limit, float) and cost > limit:
                self._above.append((cost / limit, cost, report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._above:
            terminalreporter.section(f"{len(self._above)} tests above their budget")
            for _, cost, nodeid in sorted(self._above, reverse=True)[:LISTED]:
                terminalreporter.line(f"{cost:6.1f} s {nodeid}")


def costs_of(config: pytest.Config) -> Mapping[str, float]:
    """Seconds that each test has cost in this run, by its id."""
    summary = config.pluginmanager.get_plugin(SUMMARY)
    assert isinstance(summary, Summary)
    return summary.costs


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Meter(), "meter of the tests")
    config.pluginmanager.register(Summary(), SUMMARY)
