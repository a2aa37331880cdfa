"""The type of a parameter, or of the result, which is encoded after the body and read by callers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from peerjob.model.codec import decode_value, encode_value, has_secret
from peerjob.model.errors import EncodeError, ResultTypeError
from peerjob.model.record import Record
from peerjob.model.secret import MASK, is_secret
from peerjob.model.signature import EMPTY, annotation_text

from .dropped_parts import Path, first_dropped_part

ANYTHING: Any = object()
"""The value of `TypedPosition.exact` for an annotation that every value fits."""
_NOTHING: Any = object()
"""The value of `TypedPosition.exact` for an annotation to which every value must be converted."""
_BUILTINS = frozenset({int, str, float, bool, bytes, complex, type(None), list, dict, tuple, set, frozenset})
_EXACT = _BUILTINS | {datetime, date, time, timedelta, UUID, Decimal}


class TypedPosition:
    """A name, an annotation, and the converter to it, which is made for the first value that needs it."""

    def __init__(self, name: str, annotation: Any, *, supplied: bool = False) -> None:
        self.name = name
        self.annotation = annotation
        self.supplied = supplied
        self.exact = _exact(annotation)
        """The type whose values need no conversion; ANYTHING for all values, _NOTHING for none."""
        self.secret = self.exact is _NOTHING and is_secret(annotation)

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
        # show neither the secret value nor a message of the user's code, which can contain the value
        if hidden:
            return [f"{name or self.name}: does not fit its annotation (got {MASK})"]
        from .conversion import explain

        return explain(name or self.name, error)

    def located(self, error: Exception) -> tuple[Path, str]:
        """The first problem that `convert` found: the path to the part, and the reason."""
        from .conversion import located

        return located(error)

    @functools.cached_property
    def _converter(self) -> Callable[[Any], Any]:
        # import only if a value needs conversion, because the import loads pydantic
        from .conversion import make_converter

        return make_converter(self.annotation)


def _exact(annotation: Any) -> Any:
    if any(annotation is untyped for untyped in (EMPTY, Any, object)):
        return ANYTHING
    return annotation if isinstance(annotation, type) and annotation in _EXACT else _NOTHING


@dataclass(frozen=True, slots=True)
class Encoded:
    """A result that the process of its body checked and encoded."""

    data: bytes | None
    """The encoded result; None if the body returned None."""


class ResultType:
    """The type that a job returns; made once per job."""

    def __init__(self, annotation: Any) -> None:
        self.position = TypedPosition("result", annotation)

    def encode(self, value: Any) -> bytes | None:
        """Encode a result, None as None; raises EncodeError for a value that `read` could not return."""
        if value is None:
            return None
        data = encode_value(value)
        if not self.position.takes(value):
            stored = decode_value(data)
            # check the stored form too: an object of a subclass can be stored as another class, as a NamedTuple is
            if not self.position.admits(value) or not self.position.admits(stored):
                self._check(value, data, stored)
        return data

    def read(self, record: Record) -> Any:
        """Read the result of a Completed instance, as its job returned it; raises DecodeError or ResultTypeError."""
        return self.decode(record.result, record.id, record.kind)

    def decode(self, data: bytes | None, id: str, kind: str, *, optional: bool = True) -> Any:
        """Like `read`, for the bytes alone. A result can always be None; without `optional`, None must fit the type."""
        if data is None:
            return None
        raw = decode_value(data)
        if self.position.admits(raw) or (optional and raw is None):
            return raw
        try:
            return self.position.convert(raw)
        except Exception as error:  # noqa: BLE001  # conversion runs code of users, which can raise anything
            hidden = self.position.secret or has_secret(data)
            problems = self.position.explain(error, hidden=hidden)
            raise ResultTypeError(id, kind, self._text, problems, raw) from (None if hidden else error)

    def _check(self, value: Any, data: bytes, stored: Any) -> None:
        try:
            problem = first_dropped_part(value, self.position.convert(stored))
        except Exception as error:  # conversion runs code of users, which can raise anything
            if self.position.secret or has_secret(data):
                raise EncodeError((), f"does not fit the result type {self._text} (got {MASK})") from None
            path, reason = self.position.located(error)
            raise EncodeError(path, f"does not fit the result type {self._text}: {reason}") from error
        if problem is not None:
            raise EncodeError(*problem)

    @property
    def _text(self) -> str:
        return annotation_text(self.position.annotation)
