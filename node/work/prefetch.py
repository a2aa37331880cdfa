"""How long each kind takes here, and how many of it are worth claiming ahead."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

from peerjob.model.record import MAX_BATCH

WORTH = 0.020
"""Seconds of measured work per worker that may be claimed ahead."""
HOLD = 0.100
"""Seconds after which an instance that was claimed ahead and not started is handed back."""


class Prefetch:
    """A moving average of run times per kind (each new one weighs a fifth)."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def measured(self, kind: str, seconds: float) -> None:
        mean = self._mean.get(kind)
        self._mean.pop(kind, None)  # so that it is the latest
        self._mean[kind] = seconds if mean is None else mean + (seconds - mean) * 0.2

    def stalled(self, kind: str) -> None:
        """Claiming ahead was wrong: nothing more of this kind until it has been measured again."""
        self._mean.pop(kind, None)

    def latest(self, most: int) -> Iterable[str]:
        """The kinds that were measured last, the last one first."""
        return islice(reversed(self._mean), most)

    def ahead(self, kind: str, workers: int) -> int:
        """How many of this kind to hold beyond the free workers."""
        mean = self._mean.get(kind)
        if mean is None:
            return 0
        if mean <= WORTH:
            return min(MAX_BATCH, math.ceil(workers * WORTH / max(mean, 1e-6)))
        return workers if mean < HOLD else 0
