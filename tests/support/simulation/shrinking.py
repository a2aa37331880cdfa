"""Makes a failing program smaller, by leaving operations out as long as it still fails in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, TypeVar


class Shrinkable(Protocol):
    """A program whose operations can be left out."""

    @property
    def size(self) -> int:
        """The number of operations, with those that are left out."""
        ...

    def is_left_out(self, number: int) -> bool: ...

    def without(self, start: int, stop: int) -> Self:
        """The program without some operations, while the others keep their numbers."""
        ...


P = TypeVar("P", bound=Shrinkable)


def shrunk(program: P, fails: Callable[[P], bool], *, tries: int = 400) -> P:
    """The smallest program that was found in so many tries.

    It leaves out the second half, then smaller and smaller stretches, until single operations are left to try.
    """
    size = max(1, program.size // 2)
    while tries > 0:
        start, smaller = 0, False
        while start < program.size and tries > 0:
            stop = min(program.size, start + size)
            if not all(map(program.is_left_out, range(start, stop))):
                tries -= 1
                candidate = program.without(start, stop)
                if fails(candidate):
                    program, smaller = candidate, True
            start = stop
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return program
