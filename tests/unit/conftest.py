"""Fixtures of the tests that need no service."""

from collections.abc import AsyncIterator

import pytest

from peerjob.testing.clock import VirtualClock


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    """Virtual time for the test's event loop."""
    with VirtualClock() as installed:
        yield installed
