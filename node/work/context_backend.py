"""Serves the `Context` of each run: progress, log lines, the check for ownership, the instance and the worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from peerjob.handles.context import Context
from peerjob.handles.durable_run import DurableRun
from peerjob.handles.instance import Instance
from peerjob.handles.job_log import make_line, storable
from peerjob.handles.manager import Manager
from peerjob.model.clock import Clock
from peerjob.model.errors import NodeStateError, OptionError
from peerjob.model.record import Claim
from peerjob.model.spec import Progress, encode
from peerjob.model.state import State
from peerjob.model.worker import Worker
from peerjob.node.body.registry import Registry
from peerjob.store.base import Store

from .durable_state import DurableState
from .references import with_results
from .run import Run, record_of

logger = logging.getLogger("peerjob.node")

MAX_PROGRESS = 1_000
"""Most characters of a progress message; the end of a longer message is cut off and marked."""


class NodeContextBackend:
    """Answers calls on job contexts, from the event loop and from threads."""

    def __init__(
        self,
        clock: Clock,
        name: str,
        store: Store,
        manager: Manager,
        registry: Registry,
        make_durable: Callable[[Run, Context, DurableState], DurableRun],
    ) -> None:
        self._clock = clock
        self._name = name
        self._store = store
        self._manager = manager
        self._registry = registry
        self._dropped_limits = set[str]()
        """Limits of this node's jobs that no kind has any more, each after its warning."""
        self._make_durable = make_durable
        self._loop = asyncio.get_running_loop()
        self.runs: dict[Context, Run] = {}
        """The run of each job context, while the body or a processor of the run can use the job context."""

    async def with_results(self, claim: Claim, arguments: bytes) -> bytes:
        """The arguments of a member of a flow, with results in the place of references; see `references`."""
        return await with_results(self._store, claim.kind, claim.parent, arguments)

    def instance_of(self, run: Run) -> Instance[Any]:
        """The instance as its processors and its body see it."""
        return Instance(self._manager, record_of(run.claim, self._name, run.incarnation))

    def time_us(self) -> int:
        return self._clock.time_us()

    def report_progress(self, context: Context, fraction: float, message: str) -> None:
        run = self.runs.get(context)
        if run is not None:
            run.progress = encode(Progress(fraction, storable(message, MAX_PROGRESS), self._clock.time_us()))

    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool:
        run = self.runs.get(context)
        if run is None:
            return False
        now = self._clock.time_us()
        run.add_line(make_line(now, level, message, attempt=context.attempt, node=self._name, fields=fields))
        return True

    async def check_owner(self, context: Context) -> bool:
        run = self.runs.get(context)
        if run is None or run.lost:
            return False
        record = (await self._store.get([context.id]))[0]
        return (
            record is not None
            and record.state is State.PROCESSING
            and (record.fence, record.owner) == (context.fence, run.incarnation)
        )

    async def throttle(self, context: Context, limit: str, delay_us: int) -> None:
        if await self._store.throttle(limit, delay_us):
            return
        if not any(shared.name == limit for of_kind in self._registry.limits() for shared in of_kind.shared):
            raise OptionError("limit", limit, "the name of a limit that a kind has")
        # nodes of a newer build have published their kinds without the limit: that is no failure of this body
        if limit not in self._dropped_limits:
            self._dropped_limits.add(limit)
            logger.warning(
                "throttle() closes nothing: no kind has the limit %r any more, since other nodes dropped it", limit
            )

    def durable_run(self, context: Context, verb: str) -> DurableRun:
        run = self.runs.get(context)
        if run is None or run.ended:
            raise NodeStateError(f"{verb}() comes after the end of the run of instance {context.id}")
        if asyncio.get_running_loop() is not self._loop:
            text = f"{verb}() runs on another event loop than the node: a body in a thread takes a BlockingContext"
            raise NodeStateError(text)
        if run.durable is None:
            run.durable = DurableState()
            run.durable.verbs = self._make_durable(run, context, run.durable)
        assert run.durable.verbs is not None
        return run.durable.verbs

    def make_instance(self, context: Context) -> Instance[Any]:
        return self.instance_of(self.runs[context])

    def make_worker(self, context: Context) -> Worker:
        return self.runs[context].worker(self._name, self._loop.time())
