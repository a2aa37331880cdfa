"""Bounded steps that become smaller while the store refuses them for good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from peerjob.model.errors import StoreRefusedError

T = TypeVar("T")


class BatchSize:
    """The size of a step: halved when the store refuses a step, doubled up to `most` when it takes one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = most

    async def step(self, call: Callable[[int], Awaitable[T]]) -> T:
        """The answer to the largest step that the store takes; raises StoreRefusedError when it refuses one record."""
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
