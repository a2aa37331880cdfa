"""Keys in order, sorted only when they are read.

Most keys are read only by name, and many are removed before a range is read. So additions and removals are noted, an
addition and its removal cancel each other, and the rest reaches the sorted list with the next read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, cast

# sortedcontainers has no type annotations.
import sortedcontainers  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]


class _KeyList(Protocol):
    """The methods of a SortedList that SortedKeys uses, with types: the library has no type annotations."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def bisect_left(self, value: str) -> int: ...
    def irange(self, minimum: str, maximum: str, inclusive: tuple[bool, bool], reverse: bool) -> Iterator[str]: ...
    def remove(self, value: str) -> None: ...
    def update(self, values: Iterable[str]) -> None: ...


def _sorted_keys(keys: Iterable[str] = ()) -> _KeyList:
    return cast("_KeyList", sortedcontainers.SortedList(keys))


class SortedKeys:
    """A set of keys that can be read in order."""

    __slots__ = ("_added", "_removed", "_sorted")

    def __init__(self) -> None:
        self._sorted = _sorted_keys()
        self._added: set[str] = set()
        self._removed: set[str] = set()

    def add(self, key: str) -> None:
        """Add a new key."""
        if key in self._removed:
            self._removed.discard(key)
        else:
            self._added.add(key)

    def remove(self, key: str) -> None:
        """Remove an existing key."""
        if key in self._added:
            self._added.discard(key)
        else:
            self._removed.add(key)

    def __len__(self) -> int:
        return len(self._sorted) + len(self._added) - len(self._removed)

    def count(self, start: str, end: str) -> int:
        """How many keys are in [start, end)."""
        if not len(self):
            return 0
        self._settle()
        return self._sorted.bisect_left(end) - self._sorted.bisect_left(start)

    def between(self, start: str, end: str, *, reverse: bool = False) -> Iterator[str]:
        """The keys in [start, end); the set must not change during the iteration."""
        self._settle()
        return self._sorted.irange(start, end, (True, False), reverse)

    def _settle(self) -> None:
        if self._removed:
            if len(self._removed) * 8 > len(self._sorted):
                self._sorted = _sorted_keys(key for key in self._sorted if key not in self._removed)
            else:
                for key in self._removed:
                    self._sorted.remove(key)
            self._removed.clear()
        if self._added:
            self._sorted.update(self._added)
            self._added.clear()
