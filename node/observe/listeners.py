"""Calls listeners so that an error in one of them ends neither the caller nor the calls that follow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

logger = logging.getLogger("peerjob.node")


def tell(about: str, listener: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a listener; an exception that it raises is logged with `about` and goes no further.

    The claim loop, the reaper and the lease call listeners between two steps of their own. An exception that left a
    listener would skip the second step: a claim without a worker, an outcome without its answer.
    """
    try:
        listener(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  # it is logged
        note_failure(about, error)


def note_failure(about: str, error: Exception) -> None:
    """Log what a listener raised, for a caller that is called too often for `tell`."""
    logger.error("%s: a listener failed; the node goes on", about, exc_info=error)
