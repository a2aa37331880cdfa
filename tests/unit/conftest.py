"""Fixtures of the tests that need no service, and the list of the slow ones.

`make quick` leaves out the tests that slow.txt names. `pytest tests/unit --record-slow` measures all tests, and writes
the list anew; it takes minutes, and wants a machine that does nothing else.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peerjob.testing.clock import VirtualClock
from support.costs import costs_of

SLOW = Path(__file__).with_name("slow.txt")
SLOW_FROM = 0.1
"""Seconds that a test costs, from which it is slow."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-slow", action="store_true", help="write the list of slow unit tests anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and begin with them: at the end all other workers would wait for them."""
    listed = set(SLOW.read_text().split())
    for item in items:
        if _name(item.nodeid) in listed:
            item.add_marker("slow")
    items.sort(key=lambda item: (item.path.name != "test_types.py", item.get_closest_marker("slow") is None))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--record-slow", default=False) and not hasattr(session.config, "workerinput"):
        slow = {_name(nodeid) for nodeid, cost in costs_of(session.config).items() if cost >= SLOW_FROM}
        SLOW.write_text("".join(f"{name}\n" for name in sorted(slow)))


def _name(nodeid: str) -> str:
    """The test without its parameters, as a path in this folder."""
    return nodeid.removeprefix("tests/unit/").partition("[")[0]


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    """Virtual time for the test's event loop."""
    with VirtualClock() as installed:
        yield installed
