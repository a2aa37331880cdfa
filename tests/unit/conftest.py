"""Fixtures of the tests that need no service, and the list of the slow ones.

`make quick` leaves out the tests that slow.txt names. `pytest tests/unit --record-slow` measures all tests, and writes
the list anew; it takes minutes, and wants a machine that does nothing else.
"""

import resource
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from peerjob.testing.clock import VirtualClock

SLOW = Path(__file__).with_name("slow.txt")
SLOW_FROM = 0.1
"""Seconds of CPU time, the test's own and that of its processes, from which a test is slow."""
_measured: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-slow", action="store_true", help="write the list of slow unit tests anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and begin with them: at the end all other workers would wait for them."""
    listed = set(SLOW.read_text().split())
    for item in items:
        if _name(item) in listed:
            item.add_marker("slow")
    items.sort(key=lambda item: (item.path.name != "test_types.py", item.get_closest_marker("slow") is None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    before = _cpu_seconds()
    answer = yield
    _measured[_name(item)] = max(_measured.get(_name(item), 0), _cpu_seconds() - before)
    return answer


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--record-slow", default=False) and not hasattr(session.config, "workerinput"):
        SLOW.write_text("".join(f"{name}\n" for name, spent in sorted(_measured.items()) if spent >= SLOW_FROM))


def _name(item: pytest.Item) -> str:
    """The test without its parameters, as a path in this folder."""
    return item.nodeid.removeprefix("tests/unit/").partition("[")[0]


def _cpu_seconds() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    """Virtual time for the test's event loop."""
    with VirtualClock() as installed:
        yield installed
