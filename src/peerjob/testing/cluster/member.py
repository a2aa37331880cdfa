# pyright: reportPrivateUsage=false
# this file alone reaches into a node, to end it as the death of its process does
"""One node of a test cluster: its lane, its clock, its links, and how each of them ends."""

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
from peerjob.store.kv.elections import KVElections
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData

from .clocks import ClusterClock, NodeClock, StoreClock
from .connections import URL, Link, LinkedKeyValue
from .faults import Faults
from .journal import EventJournal
from .node_tasks import NodeTasks, TaskSorter

RETRY_FOR = 30.0
"""Seconds for which a node tries a call again while it is cut off, as with a store on the network."""


class Member:
    """One start of a node, from its process's first moment to its last."""

    def __init__(
        self,
        name: str,
        *,
        lanes: TaskSorter,
        driver: ClusterClock,
        data: MemoryData,
        namespace: str,
        limits: StoreLimits,
        seed: str,
        latency: float,
        faults: Faults,
        journal: EventJournal,
        make: Callable[[Member], Node],
    ) -> None:
        self.name = name
        self.starting = True
        """Until its node has started, or has failed to."""
        self.lane = NodeTasks(name)
        self.clock = NodeClock(driver, seed)
        self.store_link = Link(latency, f"{seed}/store")
        self.coordinator_link = Link(latency, f"{seed}/coordinator")
        self._lanes = lanes
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
        """A client for the leadership, over the coordinator's link."""
        elections = KVElections(
            self._coordinator.separate(), url=URL, namespace=self._namespace, clock=self._store_clock
        )
        return self._faults.over_elections(elections, URL, self.name, self._gate)

    def move_in(self, before: Member) -> None:
        """Be a new process on the machine of one that has ended."""
        self.clock.ahead_us = before.clock.ahead_us
        self.store_link.cut = before.store_link.cut
        self.coordinator_link.cut = before.coordinator_link.cut

    async def _gate(self) -> None:
        """Hold a call that the test itself makes through a node that is paused."""
        while self.lane.paused:
            await self.lane.moved.wait()
        if self.lane.dropped:
            raise StoreUnavailableError(URL, f"the process of node {self.name!r} was killed")

    def watch_bodies(self) -> None:
        """Have the journal told of each body; the node is started, and runs none yet."""
        runtime = self.node._runtime
        assert runtime is not None
        executor, journal = runtime._executor, self._journal
        call = executor.call

        async def watched(
            binding: Binding, data: bytes, context: Context, run_in: str, began: Callable[[], None] | None = None
        ) -> Any:
            run = journal.body_begins(context.id, context.kind, self.name, context.attempt)
            try:
                result = await call(binding, data, context, run_in, began)
            except BaseException as error:
                if not isinstance(error, GeneratorExit):
                    journal.body_ends(run, context.asked or type(error).__name__)
                raise
            journal.body_ends(run, "returned")
            return result

        setattr(executor, "call", watched)  # noqa: B010  # a method, on purpose

    @property
    def lives(self) -> bool:
        """Whether its process is there, be it paused."""
        return not self.lane.dropped and self.node.running

    @property
    def starts(self) -> bool:
        """Whether its process is there, and its node not yet."""
        return self.starting and not self.lane.dropped

    @property
    def answers(self) -> bool:
        """Whether it can be asked: it runs, and reaches the store."""
        return self.lives and self.lane.runs and not self.store_link.cut

    @property
    def is_leader(self) -> bool:
        """Whether it may act as leader at this moment."""
        return self.lives and self.node.is_leader

    @property
    def is_disturbed(self) -> bool:
        """Whether a fault of the test goes on."""
        return self.lane.paused or self.store_link.cut or self.coordinator_link.cut or self.clock.ahead_us != 0

    @property
    def is_at_rest(self) -> bool:
        """Whether all is committed and reported, its lease is steady, and its roles do nothing but look again."""
        runtime = self.node._runtime
        return (
            runtime is not None
            and runtime.joined
            and runtime._joining is None
            and runtime.lease.may_reap
            and not runtime.claim_loop.unsettled
            and not runtime.pool.waiting
            and not self.store_link.under_way
            and not self.coordinator_link.under_way
            # a waiter whose instance has ended hears of it at its next look
            and all(map(self._journal.is_active, runtime.waiters._waiting))
            and not runtime.watchers._streams
            and not runtime.watchers._joining
            and not any(run.unsaid for run in runtime.pool.runs())
        )

    @property
    def claims(self) -> tuple[str, ...]:
        """The kinds that it would claim now."""
        runtime = self.node._runtime
        if runtime is None or not runtime.pool.room(runtime._kinds)[0]:
            return ()
        return runtime._kinds

    def look(self, *, claim: bool) -> None:
        """Have it look again at the time: which schedules are due, and with `claim` which instances."""
        runtime = self.node._runtime
        if runtime is not None:
            time = runtime.lease.time
            time.correct(time.ahead_us)  # a jump moves the wall clock alone
            runtime._cron._wake.set()
            if claim:
                runtime.claim_loop.hint()

    def pause(self) -> None:
        """Stand still, as after SIGSTOP."""
        self._lanes.pause(self.lane)
        self.clock.stand_still()

    def resume(self) -> None:
        """Go on, as after SIGCONT."""
        self.clock.go_on()
        self._lanes.resume(self.lane)

    def kill(self) -> None:
        """Vanish, as after SIGKILL: nothing of the node runs again, and it does not leave the cluster in order."""
        self._lanes.drop(self.lane)
        self.clock.stand_still()
        for link in (self.store_link, self.coordinator_link):
            link.close()
        self._journal.node_vanishes(self.name)
        runtime, self.node._runtime = self.node._runtime, None
        if runtime is None:
            return
        logging.getLogger().removeHandler(runtime._capture)
        runtime._executor._threads.close()
        for process in list(runtime._executor._processes._all):
            process.kill()
        for id in list(runtime.waiters._waiting):
            runtime.waiters._resolve(id, NodeStoppedError(f"node {self.name!r} was killed"))
