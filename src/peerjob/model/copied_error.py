"""Errors that `pickle` and `copy` keep whole, although their constructors do not take their text."""

from __future__ import annotations

from typing import Any


class CopiedError(BaseException):
    """Base of errors that are made again without their constructor, from `args` and their attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _copy, (type(self), self.args), self.__dict__


def _copy(kind: type[CopiedError], args: tuple[object, ...]) -> CopiedError:
    error = kind.__new__(kind, *args)  # with the arguments, which a `__new__` of a subclass can require
    error.args = args
    return error
