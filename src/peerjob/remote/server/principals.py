"""The caller of the RPC that runs now, and its address."""

from __future__ import annotations

from contextvars import ContextVar

from peerjob.model.rights import ANYBODY, Principal

_caller: ContextVar[Principal] = ContextVar("caller", default=ANYBODY)
_address: ContextVar[str] = ContextVar("address", default="")


def set_caller(principal: Principal, address: str) -> None:
    """Set the caller for the rest of this RPC."""
    _caller.set(principal)
    _address.set(address)


def caller_address() -> str:
    """The address of the caller of this task's RPC, also behind a trusted proxy."""
    return _address.get()


def caller() -> Principal:
    """The caller of this task's RPC."""
    return _caller.get()
