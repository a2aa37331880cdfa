"""The immutable part of an instance: its arguments and the options that travel with it."""

from __future__ import annotations

from typing import Any

import msgspec

from .codec import decode_shown, encode_value, has_secret
from .decoding import reader
from .errors import DecodeError, EncodeError
from .record import Moment


class Spec(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Arguments are kept encoded, so that a record can be read without decoding them."""

    args: bytes
    """`[args, kwargs]`, by `codec.encode_value`."""
    overrides: dict[str, Any] = {}
    """Options given per schedule, by `policy.store_overrides`."""
    retry_of: str | None = None
    created_us: int = 0
    """When it was scheduled, by its scheduler's clock."""
    version: int = 0
    """Version of the definition it was scheduled with."""
    schedule: str = ""
    """The schedule that it is a fire of; "" for none."""
    nominal_us: int = 0
    """The nominal time that it was fired for, without jitter; 0 for none."""
    trace: dict[str, str] = {}
    """The context of a trace that it was scheduled in: `traceparent` and `tracestate`, as in W3C Trace Context."""

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments, "***" for those that are secret; raises DecodeError."""
        value = decode_shown(self.args)
        try:
            args, kwargs = value
            return tuple(args), dict(kwargs)
        except (TypeError, ValueError) as error:
            raise DecodeError(f"stored arguments have the wrong shape: {error}") from error


class ErrorInfo(msgspec.Struct, frozen=True):
    """What is kept of an exception that ended a run."""

    type: str
    """`module.qualname` of its class, without `builtins.`."""
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far a run is."""

    fraction: float
    message: str = ""
    at_us: Moment = 0


_spec_encoder = msgspec.msgpack.Encoder()
decode_spec = reader(Spec, "stored instance", open=True)
decode_error = reader(ErrorInfo, "stored error")
decode_progress = reader(Progress, "stored progress")


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Arguments as they are stored."""
    return encode_value([list(args), kwargs])


def redacted(data: bytes) -> bytes:
    """An encoded Spec without its secrets, for whoever is no node; arguments that cannot be read are left out, too."""
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
    """One of this module's values as MessagePack."""
    return _spec_encoder.encode(value)
