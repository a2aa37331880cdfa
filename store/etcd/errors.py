"""Converts errors of etcd to errors of peerjob."""

from __future__ import annotations

from typing import Any

from peerjob.model.errors import (
    PeerjobError,
    StoreCredentialsError,
    StoreError,
    StorePermissionError,
    StoreRefusedError,
    StoreUnavailableError,
)
from peerjob.store.kv.format.base import LeaseEndedError

from .api import codes

_PASSING = (
    codes.UNAVAILABLE,
    codes.DEADLINE_EXCEEDED,
    codes.CANCELLED,
    codes.ABORTED,
    codes.INTERNAL,
    codes.UNKNOWN,
    codes.RESOURCE_EXHAUSTED,
    codes.FAILED_PRECONDITION,
)
"""Codes of errors that pass: no leader, a stopping member, too many requests. A later call, or a call to another
member, can succeed."""
_NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed", "Name resolution")
_BAD_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")
_TOO_LARGE = ("request is too large", "larger than max")


def never_sent(error: Any) -> bool:
    """Whether the request cannot have reached a server."""
    return error.code() is codes.UNAVAILABLE and any(text in (error.details() or "") for text in _NEVER_SENT)


def bad_token(error: Any) -> bool:
    """Whether the request was refused for its token, before it had an effect."""
    return any(text in (error.details() or "") for text in _BAD_TOKEN)


def no_space(error: Any) -> bool:
    """Whether the request was refused because the quota is used up."""
    return "database space exceeded" in (error.details() or "")


def translated(error: Any, url: str) -> PeerjobError:
    """Our error for an error of gRPC."""
    code, details = error.code(), error.details() or ""
    if no_space(error):
        return StoreUnavailableError(url, f"etcd is out of space, and takes no writes until it has some: {details}")
    if any(text in details for text in _TOO_LARGE):
        return StoreRefusedError(f"the store at {url} refused a request: {details}")
    if code is codes.PERMISSION_DENIED or "permission denied" in details:
        return StorePermissionError(f"the user of the store at {url} lacks a right on a key: {details}")
    if code is codes.UNAUTHENTICATED or "authentication failed" in details or bad_token(error):
        return StoreCredentialsError(f"the store at {url} refused the credentials: {details}")
    if "lease not found" in details:
        return LeaseEndedError(url, details)
    if code in _PASSING:
        return StoreUnavailableError(url, details or code.name)
    # etcd uses INVALID_ARGUMENT only for requests with too many operations or a duplicate key, so the same request
    # would fail again.
    kind = StoreRefusedError if code is codes.INVALID_ARGUMENT else StoreError
    return kind(f"the store at {url} refused a request: {details or code.name}")
