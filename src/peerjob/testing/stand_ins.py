"""Replacements for the parts of a node, for `eager`: no store, no roles, no threads."""

from __future__ import annotations

import random  # noqa: TID251  # seeded, so that a test can repeat the random choices
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from peerjob.handles.context import Context
from peerjob.handles.direct_scheduling import DirectScheduling
from peerjob.handles.manager import Manager
from peerjob.model.call_list import CallList
from peerjob.model.clock import Clock, SystemClock
from peerjob.model.durable import Step, Wait
from peerjob.model.errors import NodeStateError
from peerjob.model.job import Call, Job
from peerjob.model.record import Ack, NodeView, Record
from peerjob.node.body.binding import Binding
from peerjob.node.body.executor import Executor
from peerjob.node.body.threads import ThreadPool
from peerjob.node.manager.call_encoder import CallEncoder
from peerjob.node.work.context_backend import NodeContextBackend
from peerjob.node.work.durable_run import NodeDurableRun
from peerjob.node.work.durable_state import DurableState, Suspension, Write
from peerjob.node.work.durable_steps import ChildCalls, DurableParts
from peerjob.node.work.run import HeldClaims, Run
from peerjob.node.work.unsent_reports import UnsentReports, Waker

NAME = "eager"
"""Name of the node that a job sees when it runs eagerly."""


class SkippingClock(SystemClock):
    """The machine's clock, except that it can skip time and that its randomness comes from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._skipped_us = 0

    def time_us(self) -> int:
        return super().time_us() + self._skipped_us

    def skip(self, seconds: float) -> None:
        """Move the time on at once."""
        self._skipped_us += round(seconds * 1_000_000)


class CallersThread(ThreadPool):
    """Runs work in the thread that calls `serve`, and starts no threads."""

    def serve(self) -> None:
        """Run work until `finish`."""
        self._serve()

    def finish(self) -> None:
        """Let `serve` return."""
        self._work.put(None)

    def _start_thread(self) -> None:
        """Start no thread, since the caller's thread does the work."""


class DirectExecutor(Executor):
    """Runs every body in this process."""

    async def call(self, binding: Binding, data: bytes, context: Context, run_in: str, began: Any = None) -> Any:
        return await super().call(binding, data, context, "auto" if run_in == "process" else run_in, began)


class NoNode(DirectScheduling):
    """The manager of an eager job: verbs that need a node raise NodeStateError."""

    def __init__(self, clock: Clock, call_encoder: CallEncoder) -> None:
        self.clock = clock
        self._call_encoder = call_encoder

    async def nodes(self) -> list[NodeView]:
        return []

    def read_result(self, record: Record, job: Job[..., Any, Any] | None = None) -> Any:
        return self._call_encoder.read_result(record, job)

    def keep_line(self, id: str, level: int, message: str, fields: Mapping[str, object] | None = None) -> None:
        """Drop the line: lines from outside the run go only to the log of the process."""

    def __getattr__(self, name: str) -> Any:
        raise NodeStateError(f"an eager job has no node, and so no {name}(): test it with running_node()")


class EagerContextBackend(NodeContextBackend):
    """The context backend of an eager run, which always owns its instance. `kept` has the steps of earlier runs."""

    def __init__(
        self, clock: Clock, manager: Manager, executor: Executor, reports: UnsentReports, kept: EagerParent
    ) -> None:
        nothing = cast(Any, None)
        calls = ChildCalls(nothing, nothing, manager.read_result)
        parts = DurableParts(nothing, reports, executor, nothing, calls)
        super().__init__(
            clock=clock,
            name=NAME,
            store=nothing,
            manager=manager,
            registry=nothing,
            make_durable=lambda run, context, state: EagerDurableRun(run, context, state, parts, kept=kept),
        )

    async def check_owner(self, context: Context) -> bool:
        return True

    async def throttle(self, context: Context, limit: str, delay_us: int) -> None:
        """Close nothing: an eager run ignores limits."""


@dataclass(frozen=True, kw_only=True)
class EagerParent:
    """What an eager instance keeps from run to run."""

    steps: dict[str, bytes]
    now_us: Callable[[], int]
    run_child: Callable[[Call[Any]], Awaitable[Record]]
    """Runs a child to its end, or until it waits."""
    children: dict[str, Record] = field(default_factory=dict[str, Record])


class EagerDurableRun(NodeDurableRun):
    """Keeps the steps of an eager instance in a dictionary, and runs its children at once."""

    def __init__(self, *args: Any, kept: EagerParent) -> None:
        super().__init__(*args)
        self._kept = kept

    async def start(self, names: Sequence[str], calls: CallList[Any]) -> list[str]:
        ids = self._child_ids(names, calls.jobs)
        await self._open()
        with self._busy():
            for id, call in zip(ids, calls, strict=True):
                if id not in self._kept.children:
                    self._refuse_if_suspended()
                    self._kept.children[id] = await self._kept.run_child(call)
        return ids

    async def over(self, ids: Sequence[str]) -> list[Record | None]:
        records = [self._kept.children[id] for id in ids]
        if not all(record.state.is_final for record in records):
            await self._suspend(Suspension(Wait(needs=True)))
        return list[Record | None](records)

    def _now_us(self) -> int:
        return self._kept.now_us()

    async def _begin(self) -> None:
        for name, value in self._kept.steps.items():
            self._remember(Step(name, value))


class EagerReports(UnsentReports):
    """Accepts the reports of a run, and keeps only their steps."""

    def __init__(self, kept: EagerParent) -> None:
        super().__init__(HeldClaims(NAME), Waker())
        self._kept = kept

    def write(self, run: Run, state: DurableState, write: Write) -> None:
        self._kept.steps.update((step.name, step.value) for step in write.steps)
        write.answer.set_result(Ack.DONE)

    def watch_reports(self) -> None:
        """Do nothing: the outcome of a run has its log lines and progress."""
