"""Makes a failing program smaller, by leaving operations out as long as it still fails in the same way."""

from __future__ import annotations

from collections.abc import Callable

from .program import Program


def shrunk(program: Program, fails: Callable[[Program], bool], *, tries: int = 400) -> Program:
    """The smallest program that was found in so many tries.

    It leaves out the second half, then smaller and smaller stretches, until single operations are left to try.
    """
    size = max(1, len(program.ops) // 2)
    while tries > 0:
        start, smaller = 0, False
        while start < len(program.ops) and tries > 0:
            stop = min(len(program.ops), start + size)
            if any(op.verb != "nothing" for op in program.ops[start:stop]):
                tries -= 1
                candidate = program.without(start, stop)
                if fails(candidate):
                    program, smaller = candidate, True
            start = stop
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return program
