"""BOUNDED and ISOLATED."""

from __future__ import annotations

from collections.abc import Iterator

from peerjob.model.spec import decode_progress, decode_spec

from .evidence import Evidence, Run, Violation

MAX_LINES = 1_000
SPOKEN = "body "
"""How each log line and progress text of a body begins; the token of its instance follows."""


def bounded(evidence: Evidence) -> Iterator[Violation]:
    """BOUNDED: nothing is left without an owner, and nothing is larger than its limit.

    * After each instance was removed and each node has left, no key is in the store but those of the namespace itself,
      of its schedules, and those that expire.
    * No instance has more log lines than its limit.
    """
    for key in evidence.leftovers:
        yield Violation("BOUNDED", key, "the key has no owner")
    for id, lines in evidence.logs.items():
        if len(lines) > MAX_LINES:
            yield Violation("BOUNDED", id, f"it has {len(lines)} log lines")


def isolated(evidence: Evidence) -> Iterator[Violation]:
    """ISOLATED: nothing of one job is seen by another job.

    * A body finds its context variable unset, and is called with the arguments that its instance was scheduled with.
    * An instance has the tags and the key that it was scheduled with, and its body sees the same.
    * Log lines and progress of an instance are its own, and the result that a body returns is stored with its instance.
    """
    for run in evidence.runs:
        for text in _of_others(evidence, run):
            yield Violation("ISOLATED", run.id, text)
    tokens = {run.id: run.token for run in evidence.runs}
    for id, lines in evidence.logs.items():
        for line in lines:
            if line.message.startswith(SPOKEN) and line.message.split()[1] != tokens.get(id):
                yield Violation("ISOLATED", id, f"it has the log line {line.message[:80]!r}")
    for id, record in evidence.records.items():
        text = "" if record.progress is None else decode_progress(record.progress).message
        if text.startswith(SPOKEN) and text.split()[1] != tokens.get(id):
            yield Violation("ISOLATED", id, f"it has the progress {text!r}")


def _of_others(evidence: Evidence, run: Run) -> Iterator[str]:
    """What a body found or was given that belongs to another instance."""
    record, order = evidence.records.get(run.id), evidence.orders.get(run.id)
    if run.found:
        yield f"its body found the context variable of {run.found}"
    if record is not None:
        if (given := decode_spec(record.spec).arguments()[0][:1]) != (run.token,):
            yield f"its body was called with {run.token!r} instead of {given!r}"
        if (run.tags, run.key) != (record.tags, record.key):
            yield f"its body saw {run.tags} and {run.key!r}, its record has {record.tags} and {record.key!r}"
    if order is not None:
        if run.token != order.token:
            yield f"its body was called with {run.token!r} instead of {order.token!r}"
        if record is not None and (record.tags, record.key) != (order.tags, order.key):
            yield f"it has the tags {record.tags} and the key {record.key!r} instead of {order.tags}, {order.key!r}"
