"""Steps of limited size, which shrink while the store refuses them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from peerjob.model.errors import StoreRefusedError

T = TypeVar("T")


class BatchSize:
    """The size of a step. A refusal halves the size, and an accepted step doubles it, up to `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = most

    async def step(self, call: Callable[[int], Awaitable[T]]) -> T:
        """The answer to the largest step that the store accepts; raises StoreRefusedError for a step of one record."""
        while True:
            try:
                answer = await call(self._size)
            except StoreRefusedError:
                if self._size == 1:
                    raise
                self._size //= 2
            else:
                self._size = min(self._most, 2 * self._size)
                return answer
