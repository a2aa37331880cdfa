"""The rules that every store keeps, as a suite to run over any of them.

A store's tests subclass `StoreConformance` and say how to make a store; pytest-asyncio runs the rest in its auto mode:

    class TestMyStore(StoreConformance):
        def make_store(self, namespace: str, limits: StoreLimits) -> Store:
            return MyStore(..., namespace=namespace, limits=limits)

Two stores made with one namespace must see the same data. Most tests need no time to pass; those that do wait through
`pass_time` and `in_time`, which a store on virtual time overrides.
"""

import pytest

_PARTS = (
    "cancel",
    "changes",
    "election",
    "enqueue",
    "firing",
    "hints",
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
    "retention",
    "schedules",
    "suite",
    "suspects",
    "timetable",
    "walk",
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from .conformance import StoreConformance as StoreConformance  # noqa: E402  # after the rewriting is set up
