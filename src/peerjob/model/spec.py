"""The encoded parts of a stored instance: its arguments and options, its error, its progress; and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .bounds import TRIVIAL, Bounds
from .codec import decode_shown, encode_call, encode_value, has_secret
from .errors import DecodeError, EncodeError
from .record import Moment

T = TypeVar("T")

_bounds = Bounds(lists=frozenset(), pairs=-1, wrapper=-1, zoned=frozenset())


class Spec(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Arguments and overrides. The arguments stay encoded, so that reading a record does not decode them."""

    args: bytes
    """The list `[args, kwargs]`, encoded by `codec.encode_value`."""
    overrides: dict[str, Any] = {}
    """Overrides of the job's options, as `policy.store_overrides` returns them."""
    retry_of: str | None = None
    created_us: int = 0
    """Time of the scheduling call, by the clock of the scheduling process."""
    version: int = 0
    """Version of the job's definition at the scheduling call."""
    schedule: str = ""
    """Name of the schedule that made the instance; "" for none."""
    nominal_us: int = 0
    """The nominal time of the fire that made the instance, without jitter; 0 for none."""
    trace: dict[str, str] = {}
    """The trace of the scheduling call: `traceparent` and `tracestate`, as in W3C Trace Context."""

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments, with "***" for secrets; raises DecodeError."""
        value = decode_shown(self.args)
        try:
            args, kwargs = value
            return tuple(args), dict(kwargs)
        except (TypeError, ValueError) as error:
            raise DecodeError(f"stored arguments have the wrong shape: {error}") from error


class ErrorInfo(msgspec.Struct, frozen=True):
    """The stored form of an exception that ended a run."""

    type: str
    """Name of the error's class, as `module.qualname`, without `builtins.`."""
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """The progress of a run: a fraction from 0 to 1, and a short text."""

    fraction: float
    message: str = ""
    at_us: Moment = 0


def reader(kind: type[T], what: str, *, open: bool = False) -> Callable[[bytes], T]:
    """Make a decoder of one kind of record. `what` names it in errors.

    With `open`, the record can hold values of any type, so the bounds are checked first.
    """
    decode = msgspec.msgpack.Decoder(kind, ext_hook=_refused).decode

    def read(data: bytes) -> T:
        try:
            if open and len(data) > TRIVIAL:
                _bounds.check(data)
            return decode(data)
        # damaged data makes msgspec raise UnicodeDecodeError, OverflowError, RecursionError and errors of other classes
        except Exception as error:
            raise DecodeError(f"{what} cannot be read: {error}") from error

    return read


def _refused(code: int, data: memoryview) -> Any:
    raise ValueError(f"tag {code} of {len(data):,} bytes, where records have no tags")


_spec_encoder = msgspec.msgpack.Encoder()
decode_spec = reader(Spec, "stored instance", open=True)
decode_error = reader(ErrorInfo, "stored error")
decode_progress = reader(Progress, "stored progress")


encode_arguments = encode_call
"""Encodes arguments for storage."""


def redacted(data: bytes) -> bytes:
    """Remove the secrets from an encoded Spec, for readers that are not nodes; also arguments that cannot be read."""
    try:
        spec = decode_spec(data)
    except DecodeError:
        return data
    try:
        if not has_secret(spec.args):
            return data
        shown = encode_value(decode_shown(spec.args))
    except (DecodeError, EncodeError):
        shown = b""
    return encode(msgspec.structs.replace(spec, args=shown))


def encode(value: Spec | ErrorInfo | Progress) -> bytes:
    """Encode a value of this module as MessagePack."""
    return _spec_encoder.encode(value)
