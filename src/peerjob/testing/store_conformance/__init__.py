"""The rules of the store contract as a test suite for any store.

The tests of a store subclass `StoreConformance` and make a store; pytest-asyncio runs the suite in its auto mode:

    class TestMyStore(StoreConformance):
        def make_store(self, namespace: str, limits: StoreLimits) -> Store:
            return MyStore(..., namespace=namespace, limits=limits)

Two stores of one namespace must see the same data. Most tests do not wait. The others wait with `pass_time` and
`in_time`, which a store on virtual time overrides.

Read in this order: `suite` has what all parts share, and `timetable` what the parts about schedules share. Each other
file has the rules of one topic as a class. `conformance` joins them. `walk` and `batches` are random walks.
"""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{part.name}" for part in pkgutil.iter_modules(__path__)))

from .conformance import KeyedConformance as KeyedConformance  # noqa: E402
from .conformance import StoreConformance as StoreConformance  # noqa: E402  # pytest must rewrite its asserts
