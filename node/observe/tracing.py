"""Puts a node's work into traces; only where `Node.trace` asked for it."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence

from peerjob.model.record import Ack, Action, Claim
from peerjob.node.work.outcome_queue import Entry
from peerjob.node.work.pool import Runner
from peerjob.node.work.run import Run

from .observer import Observer
from .telemetry import Tracing


class TracedRunner:
    """Runs instances by another runner, each in a span."""

    def __init__(self, runner: Runner, tracing: Tracing, node: str) -> None:
        self._runner = runner
        self._tracing = tracing
        self._node = node
        self.hand_back = runner.hand_back
        self.put_off = runner.put_off

    async def run(self, run: Run) -> None:
        with self._tracing.running(run.claim, self._node) as span:
            run.trace = span.get_span_context()
            run.surroundings = contextvars.copy_context()  # with the span
            await self._runner.run(run)
            if run.outcome is not None:
                self._tracing.ended(span, run.outcome)


class TurnSpans(Observer):
    """Makes spans of what turns claimed and committed."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def turned(self, seconds: float, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]) -> None:
        if claims:
            self._tracing.claimed(claims, seconds)
        ended = [run.trace for run, outcome in entries if run.trace is not None and outcome.action is not Action.REPORT]
        if ended:
            self._tracing.committed(ended, seconds)
