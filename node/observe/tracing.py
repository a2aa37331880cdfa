"""Adds spans to the work of a node.

This module does not import OpenTelemetry. `make_tracing` does, through `spans`, when an application asks for traces.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peerjob.model.clock import Clock
from peerjob.model.extras import needs_extra
from peerjob.model.record import Ack, Action, Claim
from peerjob.node.work.outcomes import Entry
from peerjob.node.work.pool import Runner
from peerjob.node.work.run import Run

from .observer import Observer

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from .spans import Tracing


def make_tracing(clock: Clock, provider: TracerProvider | None = None) -> Tracing:
    """Make the spans of one node or client; raises MissingExtraError without peerjob[otel]."""
    with needs_extra("otel", "trace()"):
        from .spans import Tracing
    return Tracing(clock, provider)


class TracedRunner:
    """Runs each instance in a span, by another runner."""

    def __init__(self, runner: Runner, tracing: Tracing, node: str) -> None:
        self._runner = runner
        self._tracing = tracing
        self._node = node

    async def run(self, run: Run) -> None:
        with self._tracing.running(run.claim, self._node) as span:
            run.trace = span.get_span_context()
            # copy inside the span, so that callbacks of the run also see the span as the current span
            run.variables = contextvars.copy_context()
            await self._runner.run(run)
            if run.outcome is not None:
                self._tracing.ended(span, run.outcome)


class ClaimLoopSpans(Observer):
    """Makes spans of the claims and commits of the claim loop."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def round_ended(
        self, seconds: float | None, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]
    ) -> None:
        if claims:
            self._tracing.claimed(claims, seconds or 0.0)
        ended = [run.trace for run, outcome in entries if run.trace is not None and outcome.action is not Action.REPORT]
        if ended:
            self._tracing.committed(ended, seconds or 0.0)
