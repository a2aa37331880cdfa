"""Splits a request that the store refuses for good, so that only the refused record is lost.

The claim loop halves a batch down to single outcomes. It then sends a single outcome without its log lines, progress
and note, and after that with a short error instead of its result. It drops an outcome that the store refuses in every
form.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from peerjob.model.record import Action, Outcome
from peerjob.model.spec import ErrorInfo, encode
from peerjob.node.body.errors import message_of, type_name

from .in_flight import StoreRequest

logger = logging.getLogger("peerjob.node")

MAX_MESSAGE = 500
"""Most characters of the store's error message that are kept as the error of the instance."""


def parts_of(asked: StoreRequest, error: Exception, new_request: Callable[[], str]) -> list[StoreRequest]:
    """The requests to send instead of a refused request; none if nothing is left of it."""
    replace = msgspec.structs.replace
    if asked.entries and asked.want is not None:
        # the commit keeps its request id: if the store has already committed, the store repeats its first answer
        return [
            replace(asked, want=None, apart=True),
            replace(asked, entries=[], request=new_request(), apart=True),
        ]
    if len(asked.entries) > 1:
        half = len(asked.entries) // 2
        return [
            replace(asked, entries=part, request=new_request(), apart=True)
            for part in (asked.entries[:half], asked.entries[half:])
        ]
    for run, outcome in asked.entries:
        less, reduced = _reduced(outcome, asked.reduced, error)
        if less is not None:
            logger.error(
                "instance %s of %r: the store refuses its outcome (%s); the node sends it again %s: %s",
                run.claim.id,
                run.claim.kind,
                outcome.action,
                "without its logs, progress and note" if reduced == 1 else "with this error instead of its result",
                error,
            )
            return [replace(asked, entries=[(run, less)], request=new_request(), reduced=reduced, apart=True)]
        logger.error(
            "instance %s of %r: the store refuses its outcome (%s) in every form; the node drops it: %s",
            run.claim.id,
            run.claim.kind,
            outcome.action,
            error,
        )
    return []


def _reduced(outcome: Outcome, reduced: int, error: Exception) -> tuple[Outcome | None, int]:
    replace = msgspec.structs.replace
    if reduced < 1 and (outcome.logs or outcome.progress is not None or outcome.note):
        less = replace(outcome, logs=(), progress=None, note="")
        has_more = less.started or less.steps or less.needs
        return (None if less.action is Action.REPORT and not has_more else less), 1
    if reduced < 2 and (outcome.result is not None or outcome.error is not None):
        action = Action.TERMINATE if outcome.action is Action.COMPLETE else outcome.action
        told = encode(ErrorInfo(type=type_name(error), message=message_of(error)[:MAX_MESSAGE]))
        return replace(outcome, action=action, result=None, error=told), 2
    return None, reduced
