"""The interface by which metrics and traces learn of the work of a node, and the calls of it and other listeners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ParamSpec

from peerjob.model.firing import Fire, FireRecord
from peerjob.model.record import Ack, Claim, Reaped
from peerjob.node.work.outcomes import Entry

P = ParamSpec("P")

logger = logging.getLogger("peerjob.node")


class Observer:
    """Is called on the event loop of the node, between two steps of work. A method must be fast and must not raise.

    Each method does nothing until it is overridden.
    """

    def round_ended(
        self, seconds: float | None, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]
    ) -> None:
        """The store answered one round of the claim loop after `seconds`: it committed `entries` and gave `claims`.

        `seconds` is None for claims that came with a hint: most of the time was a wait for work.
        """

    def cancelled(self, kind: str) -> None:
        """A caller cancelled an instance through this node."""

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        """This node took claims back from a dead peer."""

    def fired(self, fire: Fire, record: FireRecord) -> None:
        """This node, as the leader, recorded nominal times."""

    def store_called(self, verb: str, seconds: float) -> None:
        """A call of a verb of the store ended after `seconds`, also with an error.

        The verb `renew` is told in the thread of the lease, and `enqueue` also in threads that call a BlockingManager.
        """


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
