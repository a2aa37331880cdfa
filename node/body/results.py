"""Results: encoded after the body, and read by callers with the return annotation of the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peerjob.model.codec import decode_value, encode_value, has_secret
from peerjob.model.errors import EncodeError, ResultTypeError
from peerjob.model.record import Record
from peerjob.model.secret import MASK
from peerjob.model.signature import annotation_text

from .lost_parts import first_lost_part
from .typed_places import TypedPlace


@dataclass(frozen=True, slots=True)
class Encoded:
    """A result that the process of its body checked and encoded."""

    data: bytes | None
    """None for no result."""


class ResultType:
    """The type that a job returns; made once per job."""

    def __init__(self, annotation: Any) -> None:
        self.place = TypedPlace("result", annotation)

    def encode(self, value: Any) -> bytes | None:
        """Encode a result, None as None; raises EncodeError for a value that `read` could not return."""
        if value is None:
            return None
        data = encode_value(value)
        if not self.place.takes(value):
            stored = decode_value(data)
            # an object of a subclass, such as a NamedTuple for a tuple, may be stored as something else
            if not self.place.admits(value) or not self.place.admits(stored):
                self._check(value, data, stored)
        return data

    def read(self, record: Record) -> Any:
        """Read the result of a Completed instance, as its job returned it; raises DecodeError or ResultTypeError."""
        if record.result is None:
            return None
        raw = decode_value(record.result)
        if self.place.admits(raw) or raw is None:
            return raw
        try:
            return self.place.convert(raw)
        except Exception as error:  # noqa: BLE001  # conversion runs code of users
            hidden = self.place.secret or has_secret(record.result)
            problems = self.place.explain(error, hidden=hidden)
            raise ResultTypeError(record.id, record.kind, self._text, problems, raw) from (None if hidden else error)

    def _check(self, value: Any, data: bytes, stored: Any) -> None:
        try:
            problem = first_lost_part(value, self.place.convert(stored))
        except Exception as error:  # conversion runs code of users
            if self.place.secret or has_secret(data):
                raise EncodeError((), f"does not fit the result type {self._text} (got {MASK})") from None
            path, reason = self.place.located(error)
            raise EncodeError(path, f"does not fit the result type {self._text}: {reason}") from error
        if problem is not None:
            raise EncodeError(*problem)

    @property
    def _text(self) -> str:
        return annotation_text(self.place.annotation)
