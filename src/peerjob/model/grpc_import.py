"""Imports gRPC without its fork handlers, which are for processes that use gRPC after a fork on both sides.

peerjob does not do so: `begin_grpc` refuses it, because the threads of gRPC do not exist in a forked child. But uvloop
forks to start a program, and during calls one such program in ten died in these handlers before it began. gRPC reads
this setting only from the environment, at its import.
"""

from __future__ import annotations

import os
import weakref
from typing import TypeVar

from .errors import NodeStateError

_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"

_users: list[int] = []
"""The id of the process that used gRPC first, of this process and those from which it was forked."""

_owned = weakref.WeakSet[object]()
"""The channels and servers of this process."""

_kept: list[object] = []
"""The channels and servers that this process has from its parent."""

T = TypeVar("T")


def import_grpc() -> None:
    """Import gRPC, unless it is imported already. A setting of the environment wins."""
    environment = os.environ  # noqa: TID251  # gRPC takes this setting only from the environment
    given = _FORK_SUPPORT in environment
    environment.setdefault(_FORK_SUPPORT, "0")
    try:
        import grpc  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        if not given:
            del environment[_FORK_SUPPORT]


def begin_grpc() -> None:
    """Call this before a use of gRPC; raises NodeStateError in a process that was forked after such a use."""
    if not _users:
        _users.append(os.getpid())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_keep)
    elif _users[0] != os.getpid():
        raise NodeStateError(
            f"process {_users[0]} used gRPC before it forked this process, where calls of gRPC would hang: use gRPC "
            "only after the fork, or start this process with the method 'spawn' of multiprocessing"
        )


def owned(item: T) -> T:
    """Return a new channel or server. A forked child keeps it until it ends.

    To free the last one in a child is to wait without end for a thread that only the parent has, with the interpreter
    locked.
    """
    _owned.add(item)
    return item


def _keep() -> None:
    # uvloop calls this also in a child that only starts a program. So it looks at no other objects.
    _kept.extend(_owned)
