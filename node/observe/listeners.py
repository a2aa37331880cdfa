"""Calls listeners so that an error in a listener stops neither the caller nor the calls that follow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

logger = logging.getLogger("peerjob.node")


def call_listener(about: str, listener: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a listener; log an exception that it raises, with `about`.

    The claim loop, the reaper and the lease call listeners between two steps of their own. An exception that left a
    listener would skip the second step: a claim without a worker, an outcome without its answer.
    """
    try:
        listener(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  # the error is logged, and the caller goes on
        log_listener_failure(about, error)


def log_listener_failure(about: str, error: Exception) -> None:
    """Log what a listener raised, for a caller that calls too often to use `call_listener`."""
    logger.error("%s: a listener failed; the node goes on", about, exc_info=error)
