"""Fixtures of the tests that need no service."""

from collections.abc import AsyncIterator

import pytest

from peerjob.testing.clock import VirtualClock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the checkers of types, which take longest: at the end all other workers would wait for them."""
    items.sort(key=lambda item: item.path.name != "test_types.py")


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    """Virtual time for the test's event loop."""
    with VirtualClock() as installed:
        yield installed
