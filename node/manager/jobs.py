"""The verbs for jobs, and the kinds that may be scheduled."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from peerjob.model.errors import UnknownKindError
from peerjob.model.job import Call, Job, JobGroup, collect_jobs

from .base import ManagedRuntime, NodeManagerBase

logger = logging.getLogger("peerjob.node")

JobSource = Job[..., Any, Any] | JobGroup | str | Iterable[Any] | object


class NodeJobManager(NodeManagerBase):
    """The verbs of a node for jobs."""

    _allow_unknown: bool

    def register(self, source: JobSource) -> None:
        found = collect_jobs(source)
        # make the definitions first, so that an invalid definition raises before any job is added
        defined = self._call_encoder.defined(found)
        self._registry.add(found)
        if self.running:
            runtime = self._need_runtime()
            runtime.job_schedules.add(defined)
            runtime.kinds_changed()

    def unregister(self, kind: str) -> Job[..., Any, Any]:
        job = self._registry.remove(kind)
        if self.running:
            runtime = self._need_runtime()
            runtime.job_schedules.forget(job.kind)
            runtime.kinds_changed()
        return job

    def jobs(self) -> list[Job[..., Any, Any]]:
        return self._registry.jobs()

    def job(self, kind: str) -> Job[..., Any, Any]:
        return self._registry.job(kind)

    def find_job(self, kind: str) -> Job[..., Any, Any] | None:
        """The job of a kind or alias, if it is registered here."""
        return self._registry.find(kind)

    async def check_known(self, kinds: Iterable[str]) -> None:
        """Raise UnknownKindError for a kind that is neither registered here nor published by a node."""
        catalogue = self._need_runtime().catalogue
        for kind in dict.fromkeys(kinds):
            if self._registry.find(kind) is None and not await catalogue.knows(kind):
                known = {job.kind for job in self._registry.jobs()} | await catalogue.served()
                raise UnknownKindError(kind, sorted(known))

    async def is_served(self, kind: str) -> bool:
        """Whether this node or another live node runs a kind, as of the last few seconds."""
        runtime = self._need_runtime()
        served_here = runtime.pool.size > 0 and self._registry.binding(kind) is not None
        return served_here or await runtime.catalogue.check_served(kind)

    async def _resolve(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """Make the call of `schedule(target, ...)`; raises UnknownKindError for a kind that no node knows."""
        self._need_runtime()
        if isinstance(target, str) and not kwargs.pop("allow_unknown", self._allow_unknown):
            await self.check_known([target])
        return self._call_encoder.resolve(target, args, kwargs)

    def _adopt(self, jobs: Iterable[Job[..., Any, Any]]) -> None:
        """Serve jobs that are scheduled here and not registered, if this node has workers.

        Raises JobConflictError, with nothing registered, if another function is registered under a kind.
        """
        runtime = self._need_runtime()
        if not runtime.pool.size:
            return
        for job in self._registry.adopt(jobs):
            runtime.kinds_changed()
            logger.warning(
                "job %r was scheduled without being registered: node %r runs it from now on, and no other node does "
                "until it registers the job",
                job.kind,
                self.name,
            )

    async def _admit(self, kinds: Iterable[str]) -> None:
        """Raise StoreFullError for a kind that is not registered here and exceeds the limit of kinds."""
        for kind in kinds:
            if self._registry.find(kind) is None:
                await self._need_runtime().catalogue.admit(kind)

    def _needs_no_check(self, runtime: ManagedRuntime, job: Job[..., Any, Any]) -> bool:
        """Whether this node runs the job or, without workers, has looked up the kind in the last few seconds."""
        return self._registry.runs(job) if runtime.pool.size else runtime.catalogue.needs_no_look(job.kind)
