"""A place that has a type: a parameter, or the result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from peerjob.model.secret import MASK, is_secret
from peerjob.model.signature import EMPTY

from .lost_parts import Path

ANYTHING: Any = object()
"""As `TypedPlace.exact`: every value fits."""
_NOTHING: Any = object()
"""As `TypedPlace.exact`: every value is converted."""
_BUILTINS = frozenset({int, str, float, bool, bytes, complex, type(None), list, dict, tuple, set, frozenset})
_EXACT = _BUILTINS | {datetime, date, time, timedelta, UUID, Decimal}


class TypedPlace:
    """A name, an annotation, and the converter to it, which is made for the first value that needs it."""

    def __init__(self, name: str, annotation: Any, *, supplied: bool = False) -> None:
        self.name = name
        self.annotation = annotation
        self.supplied = supplied
        self.exact = _exact(annotation)
        """The type whose values need no conversion, or ANYTHING."""
        self.secret = is_secret(annotation)

    def takes(self, value: Any) -> bool:
        """Whether a value fits the annotation without conversion."""
        return self.exact is ANYTHING or type(value) is self.exact

    def admits(self, value: Any) -> bool:
        """Like `takes`, for results: a subclass fits too, such as a bool for an int, or a datetime for a date."""
        return self.takes(value) or (self.exact is not _NOTHING and isinstance(value, self.exact))

    def convert(self, value: Any) -> Any:
        return value if self.takes(value) else self._converter(value)

    def confusion(self) -> str | None:
        """Name two classes of a union whose stored objects look alike, and say why; None for no such classes."""
        if self.exact is not _NOTHING:
            return None
        from .unions import find_confusion

        return find_confusion(self.annotation)

    def explain(self, error: Exception, *, hidden: bool, name: str | None = None) -> list[str]:
        """Say what `convert` found wrong, in sentences that begin with a name."""
        if hidden:  # show neither the value nor a message of the user's code
            return [f"{name or self.name}: does not fit its annotation (got {MASK})"]
        from .conversion import explain

        return explain(name or self.name, error)

    def located(self, error: Exception) -> tuple[Path, str]:
        """The first problem that `convert` found: the path to the part, and the reason."""
        from .conversion import located

        return located(error)

    @functools.cached_property
    def _converter(self) -> Callable[[Any], Any]:
        from .conversion import make_converter  # loads pydantic, so only if a value needs conversion

        return make_converter(self.annotation)


def _exact(annotation: Any) -> Any:
    if any(annotation is one for one in (EMPTY, Any, object)):
        return ANYTHING
    return annotation if isinstance(annotation, type) and annotation in _EXACT else _NOTHING
