"""Errors on the wire: a status code, a text, and the fields from which a client makes the same exception."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError as MalformedError

from peerjob.model import durable_errors, errors
from peerjob.model.codec import decode_value, encode_value
from peerjob.model.errors import DecodeError, EncodeError, PeerjobError, StoreError
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import is_tuple

DETAIL_KEY = "peerjob-error-bin"
MAX_DETAIL = 6_000
"""The most bytes of the error in the metadata of a response. By default, clients accept 8 KiB of metadata."""
MAX_TEXT = 1_000
"""The most characters of the status text. One character takes up to three bytes."""
_BOUNDS = ((4_000, 100), (1_000, 20), (200, 10), (50, 5))
"""(characters of a text, items of a list): an error is cut to the first pair of limits that fits MAX_DETAIL."""

Code = grpc.StatusCode


@dataclass(frozen=True)
class _Known:
    code: grpc.StatusCode
    fields: tuple[str, ...] = ()
    """The arguments of the error class; an empty tuple means only the message."""


_KNOWN: dict[type[Exception], _Known] = {
    errors.ArgumentError: _Known(Code.INVALID_ARGUMENT, ("kind", "problems")),
    errors.OptionError: _Known(Code.INVALID_ARGUMENT, ("option", "given", "expected")),
    errors.ScheduleError: _Known(Code.INVALID_ARGUMENT),
    errors.UnknownKindError: _Known(Code.NOT_FOUND, ("kind", "known")),
    errors.JobConflictError: _Known(Code.INVALID_ARGUMENT, ("kind", "registered", "given")),
    errors.UnknownInstanceError: _Known(Code.NOT_FOUND, ("uuid",)),
    errors.RowRefusedError: _Known(Code.NOT_FOUND, ("uuid", "holder", "why")),
    errors.UnknownScheduleError: _Known(Code.NOT_FOUND, ("name",)),
    errors.UnknownNodeError: _Known(Code.NOT_FOUND, ("node", "live")),
    # not RESOURCE_EXHAUSTED, since clients retry that status, and the payload would be too large again
    errors.PayloadTooLargeError: _Known(Code.INVALID_ARGUMENT, ("what", "size", "limit")),
    errors.EncodeError: _Known(Code.INVALID_ARGUMENT, ("path", "reason")),
    errors.DecodeError: _Known(Code.DATA_LOSS),
    errors.StoreUnavailableError: _Known(Code.UNAVAILABLE, ("url", "reason")),
    errors.StoreUnconfirmedError: _Known(Code.UNAVAILABLE, ("url", "reason")),
    errors.StoreFullError: _Known(Code.RESOURCE_EXHAUSTED),
    errors.StoreRefusedError: _Known(Code.INTERNAL),
    errors.LayoutError: _Known(Code.FAILED_PRECONDITION),
    # not UNAUTHENTICATED or PERMISSION_DENIED, since the caller's own credentials are in order
    errors.StoreCredentialsError: _Known(Code.INTERNAL),
    errors.StorePermissionError: _Known(Code.INTERNAL),
    errors.StoreCommandError: _Known(Code.INTERNAL),
    errors.StoreError: _Known(Code.INTERNAL),
    durable_errors.NotRunningError: _Known(Code.FAILED_PRECONDITION),
    durable_errors.StepLimitError: _Known(Code.FAILED_PRECONDITION, ("uuid", "name", "reason")),
    errors.NodeStateError: _Known(Code.FAILED_PRECONDITION),
    errors.NodeStoppedError: _Known(Code.UNAVAILABLE),
    errors.AuthError: _Known(Code.PERMISSION_DENIED),
    errors.UnauthenticatedError: _Known(Code.UNAUTHENTICATED),
    TimeoutError: _Known(Code.DEADLINE_EXCEEDED),
}
_BY_NAME = {kind.__name__: (kind, known) for kind, known in _KNOWN.items()}


@dataclass(frozen=True, kw_only=True)
class ErrorStatus:
    """The status of a failed call."""

    code: grpc.StatusCode
    text: str
    metadata: tuple[tuple[str, bytes], ...] = ()


def status_of(error: Exception) -> ErrorStatus:
    """The status for an error. For an error that is not of peerjob: INTERNAL, with the name alone."""
    for kind in type(error).__mro__:
        known = _KNOWN.get(cast("type[Exception]", kind))
        if known is not None:
            detail = _detail(kind.__name__, error, known)
            return ErrorStatus(code=known.code, text=_cut(str(error), MAX_TEXT), metadata=((DETAIL_KEY, detail),))
    if isinstance(error, PeerjobError):
        return ErrorStatus(code=Code.FAILED_PRECONDITION, text=_cut(str(error), MAX_TEXT))
    return ErrorStatus(code=Code.INTERNAL, text=f"internal error: {type(error).__name__}; see the log of the node")


def error_in(metadata: Sequence[tuple[str, str | bytes]] | None) -> Exception | None:
    """The exception in the trailing metadata of a server; None if there is none, or none that this release knows."""
    for key, value in metadata or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            return _raised_again(value)
    return None


def _raised_again(data: bytes) -> Exception | None:
    try:
        detail = pb.ErrorDetail.FromString(data)
        error_class = _BY_NAME.get(detail.type)
        if error_class is None:
            return None
        kind, known = error_class
        given: tuple[Any, ...] = (detail.message,)
        if known.fields:
            fields: dict[str, Any] = decode_value(detail.fields)
            given = tuple(fields[name] for name in known.fields)
        error = kind(*given)
    except (MalformedError, DecodeError, LookupError, TypeError):
        return None
    error.args = (detail.message,)
    if detail.is_unsure and isinstance(error, StoreError):
        error.is_unsure = True
    return error


def _detail(name: str, error: Exception, known: _Known) -> bytes:
    is_unsure = isinstance(error, StoreError) and error.is_unsure
    for characters, items in _BOUNDS:
        fields = {field: _bounded(getattr(error, field), characters, items) for field in known.fields}
        text = _cut(str(error), characters)
        message = pb.ErrorDetail(type=name, message=text, fields=_encoded(fields), is_unsure=is_unsure)
        data = message.SerializeToString()
        if len(data) <= MAX_DETAIL:
            return data
    return pb.ErrorDetail(type=name, message=_cut(str(error), MAX_TEXT), is_unsure=is_unsure).SerializeToString()


def _encoded(fields: dict[str, Any]) -> bytes:
    try:
        return encode_value(fields)
    except EncodeError:
        return encode_value({name: _shown(value) for name, value in fields.items()})


def _shown(value: Any) -> Any:
    try:
        encode_value(value)
    except EncodeError:
        return _utf8(repr(value))
    return value


def _bounded(value: Any, characters: int, items: int) -> Any:
    if isinstance(value, str):
        return _cut(value, characters)
    if is_tuple(value):
        kept = tuple(_bounded(item, characters, items) for item in value[:items])
        return kept if len(value) <= items else (*kept, f"and {len(value) - items:,} more")
    return value


def _cut(text: str, most: int) -> str:
    text = _utf8(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
