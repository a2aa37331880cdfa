"""How far a search among random cases goes: `make test` looks at a share of the cases, and `make matrix` at all.

A test that searches has the marker `search`, so that both commands run it.
"""

from collections.abc import Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

SHARE = 10
"""One of so many cases is in the share."""

whole = False
"""Whether this run looks at all cases; `--whole` sets it before the tests are imported."""


def examples(count: int) -> int:
    """How many cases to make, of so many in all."""
    return count if whole else -(-count // SHARE)


def cases(among: Sequence[T]) -> Sequence[T]:
    """The cases to look at: the first ones."""
    return among[: examples(len(among))]


def seeds(among: Sequence[int]) -> list[pytest.ParameterSet]:
    """Parameters of a test that has one search for each seed: those beyond the share are left to `make matrix`."""
    first = -(-len(among) // SHARE)
    return [
        pytest.param(seed, marks=[pytest.mark.matrix("one seed of many")] if place >= first else [])
        for place, seed in enumerate(among)
    ]
