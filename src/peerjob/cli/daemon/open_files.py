"""The limit of open files: each connection needs one."""

from __future__ import annotations

import logging
import resource

MOST = 65_536
RESERVED = 256
"""Open files that a node needs for the store, processes and modules."""

logger = logging.getLogger("peerjob.daemon")


def raise_limit() -> int:
    """Raise the limit of open files of this process as far as it may; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit of open files stays at %d: %s", soft, error)
        return soft
    return wanted


def connections_within(limit: int, asked: int) -> int:
    """How many of the connections that were asked for the limit of open files leaves room for."""
    available = max(1, limit - RESERVED)
    if asked > available:
        logger.warning("the limit of %d open files leaves room for %d of %d connections", limit, available, asked)
    return min(asked, available)
