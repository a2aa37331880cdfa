"""The course of the demo: start all, schedule, kill a node, wait for the end, read everything, tidy up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from peerjob import Call, Clock, Node, Query, StoreError, StoreLimits
from peerjob.model.clock import to_us
from peerjob.store.drivers import open_store

from . import workload
from .baseline import Baseline
from .checks import Kill, Tally, judge
from .children import DemoError
from .cluster import Cluster
from .corpus import Count, source_files
from .monitor import Monitor, Picture
from .report import Report
from .server import EmbeddedServer
from .view import DemoView, counted

TICK = 0.25
JOIN_TIMEOUT = 60.0
STALL = 60.0
"""Seconds without any instance becoming final after which the rest counts as lost."""
TIDY_TIMEOUT = 5.0
PAGE = 500


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the user asked for; `store` None means an embedded server, `files` None means all."""

    store: str | None
    nodes: int
    kill: bool
    workers: int
    namespace: str
    files: int | None

    @property
    def in_process(self) -> bool:
        """Whether the one node runs in the demo's own process: no other could see the store."""
        return self.store is not None and self.store.startswith("memory://")

    def observer(self, url: str, clock: Clock) -> Node:
        """The demo's own node, not started: it schedules and reads, and works only if no other can."""
        return Node(
            url,
            jobs=workload.JOBS,
            workers=self.workers if self.in_process else 0,
            namespace=self.namespace,
            name="node-1" if self.in_process else "jobd-demo",
            clock=clock,
        )


class Demo:
    """One run of the demo."""

    def __init__(self, settings: DemoSettings, view: DemoView, clock: Clock) -> None:
        self._settings = settings
        self._view = view
        self._clock = clock
        self._began = clock.elapsed()
        self._cluster = Cluster()
        self._ids: list[str] = []
        self._warnings: list[str] = []
        self._kill: Kill | None = None
        self._namespace_is_ours = False
        self._observer: Node
        self._monitor: Monitor

    @property
    def elapsed(self) -> float:
        """Seconds since the demo was made."""
        return self._clock.elapsed() - self._began

    def tell(self, event: str) -> None:
        """Show one thing that has happened."""
        self._view.tell(self.elapsed, event)

    def _headline(self, event: str) -> None:
        self._view.headline(self.elapsed, event)

    def warn(self, warning: str) -> None:
        """Show a warning, now and in the report."""
        self._warnings.append(warning)
        self.tell(f"warning: {warning}")

    async def run(self) -> Report:
        """Run it from start to end, and leave nothing behind; raises DemoError, or StoreError."""
        settings = self._settings
        files = source_files(settings.files)
        if not files:
            raise DemoError("this Python keeps no source files of its standard library: there is nothing to count")
        async with AsyncExitStack() as stack:
            check_server: Callable[[], None] = lambda: None  # noqa: E731
            url = settings.store
            if url is None:
                server = stack.enter_context(EmbeddedServer())
                check_server = server.check
                url = await server.start()
            self._observer = settings.observer(url, self._clock)
            await self._observer.start()
            stack.enter_context(self._cluster)
            stack.push_async_callback(self._tidy)
            await self._need_empty_namespace()
            self._monitor = Monitor(
                self._observer,
                clock=self._clock,
                elapsed=lambda: self.elapsed,
                cluster=self._cluster,
                workers=settings.workers,
            )
            baseline = stack.enter_context(Baseline(files))
            if not settings.in_process:
                self._cluster.start(settings.nodes, store=url, namespace=settings.namespace, workers=settings.workers)
            try:
                async with asyncio.TaskGroup() as group:
                    watches = [
                        group.create_task(self._check_children(check_server)),
                        group.create_task(self._monitor.tell_events(self.tell)),
                    ]
                    await baseline.start()
                    counting = group.create_task(baseline.count())
                    report = await self._course(files, counting)
                    for watch in watches:
                        watch.cancel()
            except BaseExceptionGroup as group_of_errors:
                raise group_of_errors.exceptions[0] from None
            return report

    # -- the course --------------------------------------------------------------------------------------------------

    async def _course(self, files: list[str], counting: asyncio.Task[Count]) -> Report:
        settings = self._settings
        await self._all_joined()
        await self._schedule(workload.first_calls(files), "job")
        await self._all_final(len(files))
        await self._show_until(counting)
        tally = Tally(self._ids, self._kill)
        async for instance in self._observer.iter_instances(Query(limit=PAGE)):
            tally.add(instance)
        single = counting.result()
        return Report(
            tally=tally,
            single=single,
            checks=judge(tally, single, kill_wanted=settings.kill),
            nodes=settings.nodes,
            warnings=self._warnings,
        )

    async def _all_joined(self) -> None:
        began, wanted = self.elapsed, self._settings.nodes
        while (alive := (await self._look()).alive) < wanted:
            if self.elapsed - began > JOIN_TIMEOUT:
                raise DemoError(f"only {alive} of {wanted} nodes were ready within {JOIN_TIMEOUT:g} s")
            await asyncio.sleep(TICK)

    async def _schedule(self, calls: Iterable[Call[workload.Receipt]], what: str) -> None:
        instances = await self._observer.schedule_many(calls)
        self._ids += [instance.id for instance in instances]
        self._headline(f"scheduled {counted(len(instances), what)}")

    async def _all_final(self, files: int) -> None:
        """Watch the work to its end; half way, schedule the slow jobs and kill a node that runs some."""
        final, since = 0, self.elapsed
        half_way = False
        while True:
            picture = await self._look()
            if not half_way and picture.kind(workload.count.kind).completed * 2 >= files:
                half_way = True
                await self._schedule(workload.slow_calls(self._settings.nodes), "slow job")
                continue
            if not picture.active:
                return
            if half_way and self._settings.kill and self._kill is None:
                await self._kill_one()
            if picture.final != final:
                final, since = picture.final, picture.elapsed
            elif picture.elapsed - since > STALL:
                return
            await asyncio.sleep(TICK)

    async def _kill_one(self) -> None:
        """Kill the node on which most slow jobs run, if there is one."""
        slow = await self._monitor.slow_by_node()
        if not slow:
            return
        victim = max(slow, key=lambda name: slow[name])
        marker = await self._observer.schedule(workload.urgent, f"the kill of {victim}")
        pid = self._cluster.kill(victim)
        self._ids.append(marker.id)
        await marker.refresh()
        self._kill = Kill(node=victim, pid=pid, at_us=to_us(marker.created_at))
        self._headline(f"kill -9 of {victim} (process {pid}), at work on {counted(slow[victim], 'slow job')}")

    async def _show_until(self, counting: asyncio.Task[Count]) -> None:
        if not counting.done():
            self._headline("waiting for the same count in one process")
        while not counting.done():
            await self._look()
            await asyncio.wait([counting], timeout=TICK)

    async def _look(self) -> Picture:
        picture = await self._monitor.look()
        self._view.show(picture)
        return picture

    async def _check_children(self, check_server: Callable[[], None]) -> None:
        while True:
            check_server()
            self._cluster.check()
            await asyncio.sleep(TICK)

    # -- before and after --------------------------------------------------------------------------------------------

    async def _need_empty_namespace(self) -> None:
        """Refuse a namespace that somebody uses: the demo clears its own at the end."""
        instances = (await self._observer.stats()).total()
        others = len(await self._observer.nodes()) - 1
        if instances or others:
            raise DemoError(
                f"namespace {self._settings.namespace!r} is in use ({counted(instances, 'instance')}, "
                f"{counted(others, 'node')}), and the demo clears its own at the end: "
                "name another one, or leave --namespace out"
            )
        self._namespace_is_ours = True

    async def _tidy(self) -> None:
        """Leave a store that is not ours as it was found."""
        try:
            if self._settings.store is not None and self._namespace_is_ours:
                await self._cluster.stop()
                async with asyncio.timeout(TIDY_TIMEOUT):
                    await self._bury_the_dead(self._settings.store)
                    await self._observer.clear()
        except (StoreError, TimeoutError) as error:
            self.warn(f"namespace {self._settings.namespace} was not cleared: {error}")
        finally:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(TIDY_TIMEOUT):
                    await self._observer.stop(grace=0)

    async def _bury_the_dead(self, url: str) -> None:
        """End the leases of nodes that cannot do so themselves, and that no peer is left to take over from."""
        dead = [view for view in await self._observer.nodes() if view.info.name in self._cluster.pids]
        if dead:
            store = open_store(url, namespace=self._settings.namespace, clock=self._clock, limits=StoreLimits())
            await store.open()
            for view in dead:
                await store.leave(view.info.incarnation)
            await store.close()
