"""What a run's `Context` asks of its node."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from peerjob.handles.context import Context
from peerjob.handles.instance import Instance
from peerjob.handles.job_log import make_line, storable
from peerjob.model.clock import Clock
from peerjob.model.spec import Progress, encode
from peerjob.model.state import State
from peerjob.model.worker import Worker

from .run import Run

if TYPE_CHECKING:
    from peerjob.store.base import Store

    from .pool import Pool
    from .runner import InstanceRunner

MAX_UNSENT_LINES = 1_000
"""Log lines of one run that may wait for a commit; the oldest is dropped first, with a marker."""
MAX_PROGRESS = 1_000
"""Longest text beside a progress, in characters; the rest is cut and marked."""


class NodeContextBackend:
    """Serves the contexts of running bodies, from the loop and from threads alike."""

    def __init__(self, *, clock: Clock, name: str, store: Store, pool: Pool, runner: InstanceRunner) -> None:
        self._clock = clock
        self._name = name
        self._store = store
        self._pool = pool
        self._runner = runner
        self._runs: dict[Context, Run] = {}

    def track(self, context: Context, run: Run) -> None:
        self._runs[context] = run

    def forget(self, context: Context) -> None:
        self._runs.pop(context, None)

    def run_of(self, context: Context) -> Run | None:
        return self._runs.get(context)

    def report_progress(self, context: Context, fraction: float, message: str) -> None:
        run = self._runs.get(context)
        if run is not None:
            run.progress = encode(Progress(fraction, storable(message, MAX_PROGRESS), self._clock.time_us()))

    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool:
        run = self._runs.get(context)
        if run is None:
            return False
        lines = run.logs
        if len(lines) >= MAX_UNSENT_LINES:
            dropped = 1
            if lines[0].message.startswith(_DROPPED):
                dropped += int(lines[0].message.removeprefix(_DROPPED))
                lines.pop(0)
            lines.pop(0)
            marker = f"{_DROPPED}{dropped}"
            lines.insert(
                0, make_line(lines[0].at_us, logging.WARNING, marker, attempt=context.attempt, node=self._name)
            )
        now = self._clock.time_us()
        lines.append(make_line(now, level, message, attempt=context.attempt, node=self._name, fields=fields))
        return True

    async def check_owner(self, context: Context) -> bool:
        run = self._runs.get(context)
        if run is None or run.lost:
            return False
        record = (await self._store.get([context.id]))[0]
        return (
            record is not None
            and record.state is State.PROCESSING
            and (record.fence, record.owner) == (context.fence, run.incarnation)
        )

    def make_instance(self, context: Context) -> Instance[Any]:
        return self._runner.instance_of(self._runs[context])

    def make_worker(self, context: Context) -> Worker:
        return self._pool.worker(self._runs[context].slot)


_DROPPED = "log lines dropped here: "
