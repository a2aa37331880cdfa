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

import pytest

_PARTS = (
    "cancel",
    "changes",
    "election",
    "enqueue",
    "fields",
    "firing",
    "hints",
    "hinted_claims",
    "history",
    "idempotency",
    "isolation",
    "ledger",
    "liveness",
    "logs",
    "order",
    "overlap",
    "ownership",
    "passing",
    "queue",
    "reading",
    "replacing",
    "residue",
    "retention",
    "run_now",
    "row_fields",
    "schedules",
    "suite",
    "suspects",
    "timetable",
    "walk",
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from .conformance import StoreConformance as StoreConformance  # noqa: E402  # pytest must rewrite its asserts
