"""Imports gRPC without its fork handlers, which are for processes that use gRPC after a fork on both sides.

peerjob does not do so. But uvloop forks to start a program, and during calls one such program in ten died in these
handlers before it began. gRPC reads this setting only from the environment, at its import.
"""

from __future__ import annotations

import os

_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"


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
