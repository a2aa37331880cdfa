"""One claimed instance on its way through this node, and all claims that the node holds."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from peerjob.handles.context import Context, Reason
from peerjob.handles.job_log import make_line
from peerjob.model.job import Job
from peerjob.model.policy import Policy
from peerjob.model.record import DIGEST_SIZE, Claim, LogLine, Outcome, Record, Transition, digest_share
from peerjob.model.spec import decode_spec
from peerjob.model.state import State
from peerjob.model.worker import Worker
from peerjob.node.body.binding import Binding

from .durable_state import DurableState

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext


PROBATION = 2.0
"""Seconds after the start of a suspect during which its node starts no other suspect."""
STUCK_AFTER = 5.0
"""Seconds until a run counts as stuck, counted from the moment when the body was told to end, or ended."""
MAX_UNSENT_LINES = 1_000
"""If more log lines of a run wait for a commit, a marker with a count replaces the oldest lines."""


class Run(msgspec.Struct, eq=False):
    """A claim and the state of its run. Only the event loop uses a Run; threads call `add_line` and set `progress`."""

    claim: Claim
    incarnation: str
    claimed_at: float
    """Time of the event loop when the claim arrived."""
    started_at: float | None = None
    """Time of the event loop when the body began; None before."""
    seconds: float | None = None
    """Seconds that the body ran; None until the body has ended."""
    ended: bool = False
    ended_at: float | None = None
    """Time of the event loop when the body and its resources had ended; processors may still be running."""
    variables: contextvars.Context | None = None
    """The context variables with which the body begins. Other code of the user runs in copies of them."""
    reported: bool = False
    """Whether a report with the start of the body was made for the store."""
    outcome: Outcome | None = None
    """The outcome; None until the runner has decided on the outcome."""
    trace: SpanContext | None = None
    """The span of the run, if the node traces."""
    lost: bool = False
    """Whether the store said that this node no longer owns the claim."""
    slot: int = -1
    arguments: bytes = b""
    schedule: str | None = None
    nominal_us: int = 0
    binding: Binding | None = None
    job: Job[..., Any, Any] | None = None
    policy: Policy | None = None
    context: Context | None = None
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    told_at: float | None = None
    """Time of the event loop when the body was told to end; None before."""
    logs: list[LogLine] = []
    dropped: int = 0
    """Log lines that `add_line` has removed since the last commit took the lines."""
    progress: bytes | None = None
    acked: asyncio.Future[Any] | None = None
    """The answer to the report of the start; None unless the body waits for that answer."""
    durable: DurableState | None = None
    """The steps and waits of the run; None unless its body uses a durable verb."""
    suspect: bool = False
    """`Claim.suspect`, kept because several steps of each run ask for it."""

    def __post_init__(self) -> None:
        self.suspect = self.claim.suspect

    def cancel(self, reason: Reason) -> None:
        """Ask the body to end; the first reason stays. After its end, a drain cancels the close of its resources."""
        context = self.context
        if context is None or self.ended:
            return
        closing = context.ended and reason == "drain" and self.told_at is None
        if not context.cancel(reason) and not closing:
            return
        self.told_at = asyncio.get_running_loop().time()
        if self.task is not None:
            self.task.cancel(reason)

    def is_stuck(self, now: float) -> bool:
        """Whether the body or its processors take longer than STUCK_AFTER to end."""
        since = self.ended_at if self.told_at is None else self.told_at
        return since is not None and now - since >= STUCK_AFTER

    def worker(self, node: str, now: float) -> Worker:
        """The worker that runs the instance."""
        return Worker(
            number=self.slot, node=node, instance=self.claim.id, kind=self.claim.kind, stuck=self.is_stuck(now)
        )

    def on_probation(self, now: float) -> bool:
        """Whether this is a suspect that has run for less than PROBATION. See decision 0001."""
        return self.suspect and (self.started_at is None or now - self.started_at < PROBATION)

    def add_line(self, line: LogLine) -> None:
        """Add a log line of the body; any thread may call it. Above MAX_UNSENT_LINES, the oldest line is dropped."""
        if len(self.logs) >= MAX_UNSENT_LINES and _pop_first(self.logs) is not None:
            self.dropped += 1
        self.logs.append(line)

    def take_logs(self) -> tuple[LogLine, ...]:
        """The log lines that no commit has taken yet; the first one tells how many lines were dropped."""
        lines = self.logs
        if not lines:
            return ()
        # one by one from the same list: a line that a thread adds meanwhile stays in it
        taken = [line for line in (_pop_first(lines) for _ in range(len(lines))) if line is not None]
        if taken and self.dropped:
            first, dropped, self.dropped = taken[0], self.dropped, 0
            text = f"log lines dropped here: {dropped}"
            taken.insert(0, make_line(first.at_us, logging.WARNING, text, attempt=first.attempt, node=first.node))
        return tuple(taken)

    def take_progress(self) -> bytes | None:
        progress, self.progress = self.progress, None
        return progress

    @property
    def linked(self) -> bool:
        """Whether the store has steps, children or a parent of the instance."""
        return self.claim.linked or self.durable is not None

    @property
    def has_report(self) -> bool:
        """Whether the store lacks the start, a progress or log lines of this run."""
        return bool(self.logs) or self.progress is not None or (self.started_at is not None and not self.reported)


def _pop_first(lines: list[LogLine]) -> LogLine | None:
    """Remove the first line; None if another thread has removed the last one."""
    try:
        return lines.pop(0)
    except IndexError:
        return None


class HeldClaims:
    """The claims of one incarnation, from the answer to a claim until the store accepts the outcome.

    The lease thread reads count and digest, so both are kept up to date with each change.
    """

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        """The current incarnation of this node. A node that was declared dead gets a new incarnation."""
        self._runs: dict[str, Run] = {}
        self._sum = 0
        self.changed: set[tuple[str, int]] | None = None
        """Id and fence of each claim that was added or removed since the reconciler asked for it; None: not asked."""

    def __len__(self) -> int:
        return len(self._runs)

    def current_incarnation(self) -> str:
        """The current incarnation, as a method for parts that ask again before each use."""
        return self.incarnation

    def add(self, run: Run) -> None:
        self._runs[run.claim.id] = run
        self._sum += digest_share(run.claim.fence)
        if self.changed is not None:
            self.changed.add((run.claim.id, run.claim.fence))

    def remove(self, run: Run) -> None:
        """Remove a claim. A newer claim of the same instance stays."""
        if self._runs.get(run.claim.id) is run:
            del self._runs[run.claim.id]
            self._sum -= digest_share(run.claim.fence)
            if self.changed is not None:
                self.changed.add((run.claim.id, run.claim.fence))

    def get(self, id: str) -> Run | None:
        return self._runs.get(id)

    def runs(self) -> list[Run]:
        return list(self._runs.values())

    def clear(self) -> list[Run]:
        """Remove and return all runs."""
        runs = self.runs()
        self._runs.clear()
        self._sum = 0
        return runs

    def summary(self) -> tuple[int, int]:
        """(count, digest) for `Liveness.renew`. Any thread may call it: a wrong pair costs one comparison."""
        return len(self._runs), self._sum % DIGEST_SIZE


def record_of(claim: Claim, node: str, incarnation: str) -> Record:
    """A record made from a claim, without a read of the store."""
    spec = decode_spec(claim.spec)
    history = (
        Transition(State.CREATED, spec.created_us or claim.at_us),
        Transition(State.SCHEDULED, spec.created_us or claim.at_us),
        Transition(State.PROCESSING, claim.at_us, node),
    )
    return Record(
        id=claim.id,
        kind=claim.kind,
        state=State.PROCESSING,
        spec=claim.spec,
        priority=claim.priority,
        due_us=claim.due_us,
        attempts=claim.attempts,
        crashes=claim.crashes,
        losses=claim.losses,
        fence=claim.fence,
        owner=incarnation,
        history=history,
        key=claim.key,
        tags=claim.tags,
        parent=claim.parent,
    )


def ended_record(record: Record, outcome: Outcome, state: State, node: str, at_us: int) -> Record:
    """The record of a run after the store has accepted its outcome, for processors."""
    return msgspec.structs.replace(
        record,
        state=state,
        result=outcome.result,
        error=outcome.error,
        wait=outcome.wait,
        history=(*record.history, Transition(state, at_us, node, outcome.note)),
    )
