# pyright: reportPrivateUsage=false
# only this file uses the internals of a node, to end the node as the death of a process does
"""One start of a node in a test cluster: its tasks, its clock and its links to the store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from peerjob.handles.context import Context
from peerjob.model.errors import NodeStoppedError, StoreUnavailableError
from peerjob.model.record import StoreLimits
from peerjob.node.body.binding import Binding
from peerjob.node.node import Node
from peerjob.store.base import Elections
from peerjob.store.kv.nodes.elections import KVElections
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData

from .clocks import ClusterClock, NodeClock, StoreClock
from .connections import URL, Link, LinkedKeyValue
from .faults import Faults
from .journal import EventJournal
from .node_tasks import NodeTasks, TaskSorter

RETRY_FOR = 30.0
"""Seconds for which a node that is cut off retries a store call. A store on the network uses the same period."""


class ClusterNode:
    """One start of a node, from the start of its process to the end."""

    def __init__(
        self,
        name: str,
        *,
        task_sorter: TaskSorter,
        driver: ClusterClock,
        data: MemoryData,
        namespace: str,
        limits: StoreLimits,
        seed: str,
        latency: float,
        faults: Faults,
        journal: EventJournal,
        make: Callable[[ClusterNode], Node],
    ) -> None:
        self.name = name
        self.starting = True
        """True until the node has started or has failed to start."""
        self.tasks = NodeTasks(name)
        self.clock = NodeClock(driver, seed)
        self.store_link = Link(latency, f"{seed}/store")
        self.coordinator_link = Link(latency, f"{seed}/coordinator")
        self._task_sorter = task_sorter
        clock = StoreClock(self.clock)
        self._faults = faults
        self._journal = journal
        store = KVStore(
            LinkedKeyValue(data, driver, self.store_link),
            url=URL,
            namespace=namespace,
            clock=clock,
            limits=limits,
            local=data.objects,
            retry_for=RETRY_FOR,
        )
        self.store = faults.over(store, name, self._gate)
        self._namespace = namespace
        self._coordinator = LinkedKeyValue(data, driver, self.coordinator_link)
        self._store_clock = clock
        self.node = make(self)

    def elections(self) -> Elections:
        """Make a client for elections, over the coordinator's link."""
        elections = KVElections(
            self._coordinator.separate(), url=URL, namespace=self._namespace, clock=self._store_clock
        )
        return self._faults.over_elections(elections, URL, self.name, self._gate)

    def inherit_faults(self, before: ClusterNode) -> None:
        """Take the clock error and the cut links of an earlier start on the same machine."""
        self.clock.ahead_us = before.clock.ahead_us
        self.store_link.cut = before.store_link.cut
        self.coordinator_link.cut = before.coordinator_link.cut

    async def _gate(self) -> None:
        """Hold a call that the test makes through a paused node. The call ends when the node resumes or is killed."""
        while self.tasks.paused:
            await self.tasks.moved.wait()
        if self.tasks.dropped:
            raise StoreUnavailableError(URL, f"the process of node {self.name!r} was killed")

    def watch_bodies(self) -> None:
        """Record each body in the journal. Call it after the start and before the first body."""
        runtime = self.node._runtime
        assert runtime is not None
        executor, journal = runtime.executor, self._journal
        call = executor.call

        async def watched(
            binding: Binding, data: bytes, context: Context, run_in: str, began: Callable[[], None] | None = None
        ) -> Any:
            run = journal.body_begins(context.id, context.kind, self.name, context.attempt)
            try:
                result = await call(binding, data, context, run_in, began)
            except BaseException as error:
                if not isinstance(error, GeneratorExit):
                    journal.body_ends(run, context.cancel_reason or type(error).__name__)
                raise
            journal.body_ends(run, "returned")
            return result

        setattr(executor, "call", watched)  # noqa: B010  # type checkers refuse an assignment to a method

    @property
    def lives(self) -> bool:
        """Whether the process exists, paused or not."""
        return not self.tasks.dropped and self.node.running

    @property
    def starts(self) -> bool:
        """Whether the process exists, and its node has not started yet."""
        return self.starting and not self.tasks.dropped

    @property
    def answers(self) -> bool:
        """Whether the node can serve a call: it runs, and reaches the store."""
        return self.lives and self.tasks.runs and not self.store_link.cut

    @property
    def is_leader(self) -> bool:
        """Whether the node may act as leader now."""
        return self.lives and self.node.is_leader

    @property
    def is_disturbed(self) -> bool:
        """Whether a fault of the test is in effect."""
        return self.tasks.paused or self.store_link.cut or self.coordinator_link.cut or self.clock.ahead_us != 0

    @property
    def is_at_rest(self) -> bool:
        """Whether everything is committed and reported, the lease is valid, and the roles only poll."""
        runtime = self.node._runtime
        return (
            runtime is not None
            and runtime.joined
            and runtime._joining is None
            and runtime.lease.may_reap
            and not runtime.in_flight.unacknowledged
            and not runtime.pool.waiting
            and not self.store_link.under_way
            and not self.coordinator_link.under_way
            # a waiter notices the end of its instance at the next poll: until that poll, the node is not at rest
            and all(map(self._journal.is_active, runtime.waiters._waiting))
            and not runtime.watchers._streams
            and not runtime.watchers._joining
            and not any(run.has_report for run in runtime.pool.runs())
        )

    @property
    def claims(self) -> tuple[str, ...]:
        """Kinds that the node would claim now."""
        runtime = self.node._runtime
        if runtime is None or not runtime.pool.may_claim(runtime._registry.kinds()):
            return ()
        return runtime._registry.kinds()

    def poll(self, *, claim: bool) -> None:
        """Check at once which schedules are due, and with `claim` also which instances."""
        runtime = self.node._runtime
        if runtime is not None:
            time = runtime.lease.time
            # a time jump moves only the wall clock, so compute the lease's wall-clock time again
            time.correct(time.ahead_us)
            runtime._cron._wake.set()
            if claim:
                runtime.waker.hint()

    def pause(self) -> None:
        """Stand still, as SIGSTOP does."""
        self._task_sorter.pause(self.tasks)
        self.clock.stand_still()

    def resume(self) -> None:
        """Continue, as SIGCONT does."""
        self.clock.go_on()
        self._task_sorter.resume(self.tasks)

    def kill(self) -> None:
        """End as SIGKILL does: no code of the node runs again, and the node does not leave the cluster in order."""
        self._task_sorter.drop(self.tasks)
        self.clock.stand_still()
        for link in (self.store_link, self.coordinator_link):
            link.close()
        self._journal.node_vanishes(self.name)
        runtime, self.node._runtime = self.node._runtime, None
        if runtime is None:
            return
        logging.getLogger().removeHandler(runtime.capture)
        runtime.executor._threads.close()
        for process in list(runtime.executor._processes._all):
            process.kill()
        for id in list(runtime.waiters._waiting):
            runtime.waiters._resolve(id, NodeStoppedError(f"node {self.name!r} was killed"))
