"""A place with a type, as values meet it: a parameter, or the result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from peerjob.model.secret import MASK, is_secret
from peerjob.model.signature import EMPTY

from .lost_parts import LostPart, Path, first_lost_part

ANYTHING: Any = object()
"""In the place of a type: every value fits."""
_NEVER: Any = object()
"""In the place of a type: every value goes through conversion."""
_EXACT: Mapping[type[Any], Any] = {
    one: one
    for one in (
        int,
        str,
        float,
        bool,
        bytes,
        type(None),
        list,
        dict,
        tuple,
        set,
        frozenset,
        complex,
        datetime,
        date,
        time,
        timedelta,
        UUID,
        Decimal,
    )
}
_UNTYPED = (EMPTY, Any, object)


class TypedPlace:
    """A name and an annotation, with the converter for it, which is made when the first value needs it."""

    def __init__(self, name: str, annotation: Any, *, supplied: bool = False) -> None:
        self.name = name
        self.annotation = annotation
        self.supplied = supplied
        self.exact: Any = _exact(annotation)
        self.secret = is_secret(annotation)

    def takes(self, value: Any) -> bool:
        """Whether a value is what the annotation asks for as it stands."""
        return self.exact is ANYTHING or type(value) is self.exact

    def admits(self, value: Any) -> bool:
        """Like `takes`, for a result, which may be of a subclass too: a bool for an int, a datetime for a date."""
        return self.takes(value) or (self.exact is not _NEVER and isinstance(value, self.exact))

    def convert(self, value: Any) -> Any:
        return value if self.takes(value) else self._converter(value)

    def confusion(self) -> str | None:
        """Which two classes of a union cannot be told apart, and why; None where all can."""
        if self.exact is not _NEVER:
            return None
        from .unions import confused

        return confused(self.annotation)

    @staticmethod
    def lost_part(value: Any, found: Any) -> LostPart | None:
        """What a value lost that went through the store and `convert`."""
        return first_lost_part(value, found)

    def explain(self, error: Exception, *, hidden: bool, name: str | None = None) -> list[str]:
        """What `convert` found wrong, in sentences that begin with a name."""
        if hidden:  # neither the value nor the message of the user's code
            return [f"{name or self.name}: does not fit its annotation (got {MASK})"]
        from .conversion import explain

        return explain(name or self.name, error)

    def located(self, error: Exception) -> tuple[Path, str]:
        """The first problem that `convert` found: the path to the part, and the reason."""
        from .conversion import located

        return located(error)

    @functools.cached_property
    def _converter(self) -> Callable[[Any], Any]:
        from .conversion import make_converter  # pydantic is only loaded where there is something to convert

        return make_converter(self.annotation)


def _exact(annotation: Any) -> Any:
    """The type whose own values need no conversion; `ANYTHING` where no value does."""
    if any(annotation is one for one in _UNTYPED):
        return ANYTHING
    return _EXACT.get(annotation, _NEVER) if isinstance(annotation, type) else _NEVER
