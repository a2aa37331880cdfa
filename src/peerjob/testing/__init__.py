"""What tests of jobs, nodes and stores are made of.

`StoreConformance` needs pytest, and is imported only when it is asked for.
"""

from typing import TYPE_CHECKING

from .clock import VirtualClock

if TYPE_CHECKING:
    from .store_conformance import StoreConformance

__all__ = ["StoreConformance", "VirtualClock"]


def __getattr__(name: str) -> object:
    if name == "StoreConformance":
        from .store_conformance import StoreConformance

        return StoreConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
