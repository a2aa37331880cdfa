"""The base of a node's verbs, and what they use of a node that runs."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import Protocol

from peerjob.cluster.election import Election
from peerjob.cluster.lease import Lease
from peerjob.handles.manager import Manager
from peerjob.model.ids import IdSource
from peerjob.model.injected import current_run
from peerjob.node.body.registry import Registry
from peerjob.node.work.change_listener import ChangeListener
from peerjob.node.work.pool import Pool
from peerjob.store.base import Store

from .batches import Enqueuer, RecordReader
from .call_encoder import CallEncoder
from .job_schedules import JobSchedules
from .kind_catalogue import KindCatalogue
from .log_lines import LogLineWriter
from .waiters import Waiters
from .watchers import Watchers


class ManagedRuntime(Protocol):
    """The parts of a running node that verbs use, and the calls by which verbs tell it what they did."""

    ids: IdSource
    lease: Lease
    election: Election
    pool: Pool
    catalogue: KindCatalogue
    enqueuer: Enqueuer
    records: RecordReader
    job_schedules: JobSchedules
    log_lines: LogLineWriter
    waiters: Waiters
    watchers: Watchers

    changes: ChangeListener

    def kinds_changed(self) -> None: ...
    async def clear(self) -> None: ...


class NodeManagerBase(Manager):
    """A manager with a store, a registry, and a runtime from the start of its node until the stop."""

    name: str
    _store: Store
    _registry: Registry
    _call_encoder: CallEncoder

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether the node is started and not stopped."""

    @abstractmethod
    def _need_runtime(self) -> ManagedRuntime:
        """Return the runtime; raises NodeStateError while the node is not running."""

    def _open_store(self) -> Store:
        """Return the store; raises NodeStateError while the node is not running."""
        self._need_runtime()
        return self._store

    def _store_time_us(self) -> int:
        return self._need_runtime().lease.time.time_us()

    def _passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Let virtual time pass while the caller waits. A wait inside a job moves no time: only the test does."""
        return self.clock.passing(timeout) if current_run.get() is None else contextlib.nullcontext()
