"""One claimed instance on its way through this node."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

from peerjob.handles.context import Context, Reason
from peerjob.model.job import Job
from peerjob.model.policy import Policy
from peerjob.model.record import Claim, LogLine, Outcome

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from peerjob.node.body.binding import Binding


PROBATION = 2.0
"""Seconds for which a suspect runs as the only suspect of its node."""


class Run:
    """A claim and what has become of it. Lives on the loop; only `logs` and `progress` are touched from threads."""

    __slots__ = (
        "acked",
        "arguments",
        "binding",
        "claim",
        "claimed_at",
        "context",
        "ended",
        "ended_at",
        "incarnation",
        "job",
        "logs",
        "lost",
        "nominal_us",
        "outcome",
        "policy",
        "progress",
        "reported",
        "schedule",
        "seconds",
        "slot",
        "started_at",
        "task",
        "timer",
        "told_at",
        "trace",
        "variables",
    )

    def __init__(self, claim: Claim, incarnation: str, claimed_at: float) -> None:
        self.claim = claim
        self.incarnation = incarnation
        self.claimed_at = claimed_at
        """Loop time of the claim's arrival."""
        self.started_at: float | None = None
        """Loop time when the body began, or None."""
        self.seconds: float | None = None
        """How long the body ran, once it has ended."""
        self.ended = False
        self.ended_at: float | None = None
        """Loop time when the body and its resources ended; only processors are left then."""
        self.variables: contextvars.Context | None = None
        """The context that the body begins with. Other code of the user runs in copies of it."""
        self.reported = False
        """Whether the start is known to the store, or on its way."""
        self.outcome: Outcome | None = None
        """What came of it, once that is decided."""
        self.trace: SpanContext | None = None
        """The span that it runs in, where the node traces."""
        self.lost = False
        """Whether the store said that this claim is not ours any more."""
        self.slot = -1
        self.arguments = b""
        self.schedule: str | None = None
        self.nominal_us = 0
        self.binding: Binding | None = None
        self.job: Job[..., Any, Any] | None = None
        self.policy: Policy | None = None
        self.context: Context | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.told_at: float | None = None
        """Loop time when the body was asked to end, or None."""
        self.logs: list[LogLine] = []
        self.progress: bytes | None = None
        self.acked: asyncio.Future[Any] | None = None
        """Set by who waits for the answer to this run's next report."""

    def cancel(self, reason: Reason) -> None:
        """Ask the body to end; the first reason stays. Once it has ended, a drain cuts its resources' closing short."""
        context = self.context
        if context is None or self.ended:
            return
        closing = context.ended and reason == "drain" and self.told_at is None
        if not context.cancel(reason) and not closing:
            return
        self.told_at = asyncio.get_running_loop().time()
        if self.task is not None:
            self.task.cancel(reason)

    def is_stuck(self, now: float, patience: float) -> bool:
        """Whether it is overdue: its body since that was told to end, or its processors since the body did."""
        since = self.ended_at if self.told_at is None else self.told_at
        return since is not None and now - since >= patience

    def on_probation(self, now: float) -> bool:
        """Whether this is a suspect that has not yet lived long enough to be thought harmless. See decision 0001."""
        return self.claim.suspect and (self.started_at is None or now - self.started_at < PROBATION)

    def take_logs(self) -> tuple[LogLine, ...]:
        """The lines not yet handed to a commit."""
        if not self.logs:
            return ()
        lines, self.logs = self.logs, []
        return tuple(lines)

    def take_progress(self) -> bytes | None:
        progress, self.progress = self.progress, None
        return progress

    @property
    def unsaid(self) -> bool:
        """Whether there is something to report that the store does not know."""
        return bool(self.logs) or self.progress is not None or (self.started_at is not None and not self.reported)
