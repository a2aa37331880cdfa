"""The caller of the RPC that runs now."""

from __future__ import annotations

from contextvars import ContextVar

from peerjob.model.rights import ANYBODY, Principal

_caller: ContextVar[Principal] = ContextVar("caller", default=ANYBODY)


def set_caller(principal: Principal) -> None:
    """Set the caller for the rest of this RPC."""
    _caller.set(principal)


def caller() -> Principal:
    """The caller of this task's RPC."""
    return _caller.get()
