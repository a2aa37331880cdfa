"""Loads gRPC without its handlers of fork, which are for processes that go on with gRPC in both halves.

Nobody does here, but uvloop forks to start a program, and while calls are under way one such program in ten died of
those handlers before it began. gRPC can only be told in the environment, while it is imported.
"""

from __future__ import annotations

import os

_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"


def import_grpc() -> None:
    """Import gRPC, unless somebody has already; what the environment says about its handlers counts."""
    environment = os.environ  # noqa: TID251  # nothing is read from it; gRPC knows no other way
    given = _FORK_SUPPORT in environment
    environment.setdefault(_FORK_SUPPORT, "0")
    try:
        import grpc  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        if not given:
            del environment[_FORK_SUPPORT]
