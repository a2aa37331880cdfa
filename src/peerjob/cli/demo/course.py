"""The course of the demo: start the processes, schedule, kill a node, wait for the end, check, and clean up."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peerjob import Call, Instance, Node, Query, State, Stats, StoreError, SystemClock
from peerjob.model.clock import to_us
from peerjob.model.printable import counted
from peerjob.store.drivers import wipe_namespace

from . import workload
from .checks import Kill, evaluate, steps_of
from .leader_watch import LeaderWatch, first_leader
from .processes import DemoError, DemoProcess, find_etcd, find_server
from .view import DemoView

if TYPE_CHECKING:
    from peerjob.cli.web_server import WebServer

TICK = 0.25
STALL = 60.0
"""Seconds without a new final instance, after which the demo counts unfinished instances as lost."""
CLEANUP_TIMEOUT = 5.0


@dataclass(kw_only=True)
class Demo:
    """One run of the demo. A `store` of None is an embedded server, and `files` of None is all files."""

    store: str | None
    in_process: bool
    """The only node runs in the demo's own process, since no other process can see a store in memory."""
    nodes: int
    kill: bool
    workers: int
    namespace: str
    files: int | None
    dashboard: Callable[[Node], WebServer] | None
    """Makes the server of the dashboard; on a terminal, the demo keeps it open after the end. None: no dashboard."""
    clock: SystemClock
    view: DemoView
    _children: dict[str, DemoProcess] = field(default_factory=dict[str, DemoProcess])
    _started: list[DemoProcess] = field(default_factory=list[DemoProcess])
    _reports: io.StringIO = field(default_factory=io.StringIO)
    """The reports of a node in this process."""
    _ids: set[str] = field(default_factory=set[str])
    _approved: set[str] = field(default_factory=set[str])
    _killed: Kill | None = None
    _coordinator: str | None = None
    """The URL of an embedded etcd that elects the leader, where an etcd can be had."""
    _leads: LeaderWatch = field(init=False)
    _observer: Node = field(init=False)

    def own_node(self, url: str) -> Node:
        """The demo's own node, not started: it schedules and reads, and runs jobs only on memory://."""
        name, workers = ("node-1", self.workers) if self.in_process else ("jobd-demo", 0)
        return Node(
            url,
            jobs=workload.JOBS,
            workers=workers,
            coordinator=self._coordinator,
            namespace=self.namespace,
            name=name,
            clock=self.clock,
        )

    async def run(self) -> dict[str, Any]:
        """Run from start to end, and remove all that the run made; the result. Raises DemoError or StoreError."""
        files = workload.source_files(self.files)
        if not files:
            raise DemoError("this Python has no source files of its standard library: there is nothing to count")
        if self.in_process:
            workload.report_to(self._reports)
        async with AsyncExitStack() as stack:
            stack.enter_context(self.view.live or nullcontext())
            url = self.store or await self._start_servers(stack)
            self._leads = LeaderWatch(self.clock, self.view.event)
            if self._coordinator is not None:
                self._start_nodes(stack, url)
                await first_leader(self._coordinator, self.namespace, self.clock, self._check_children)
            await self._start_observer(stack, url)
            if self._coordinator is None:
                await self._require_empty_namespace()
            stack.push_async_callback(self._clear_namespace)
            counter = stack.enter_context(DemoProcess("the count in one process", "count", str(self.files or "")))
            if self._coordinator is None:
                self._start_nodes(stack, url)
            watching = asyncio.create_task(self._show_events())
            stack.callback(watching.cancel)
            stats = await self._course(len(files), [workload.count.call(path) for path in files])
            self.view.event("waiting for the same count in one process")
            single = workload.Count(json.loads(await counter.line()))
            instances = [instance async for instance in self._observer.iter_instances(Query(limit=500))]
            if self.dashboard is not None and self.view.live is not None:
                await self._until_interrupted()
        return self._result(instances, stats, single)

    async def _start_servers(self, stack: AsyncExitStack) -> str:
        """Start a server for the store, and an etcd where one can be had; the URL of the store."""
        url = await self._start(stack, "the embedded server", "server", find_server()).line()
        if (etcd := find_etcd()) is not None:
            self._coordinator = await self._start(stack, "the embedded etcd", "etcd", etcd).line()
        return url

    async def _start_observer(self, stack: AsyncExitStack, url: str) -> None:
        """Start the demo's own node, with its dashboard."""
        self._observer = self.own_node(url)
        await self._observer.start()
        stack.push_async_callback(self._observer.stop, 0)
        if self.dashboard is not None:
            server = self.dashboard(self._observer)
            await server.start()
            stack.push_async_callback(server.stop)
            self.view.event(f"the dashboard: {server.url}")

    def _result(self, instances: list[Instance[Any]], stats: Stats, single: workload.Count) -> dict[str, Any]:
        """Check the run, and show the result."""
        printed = b"".join(process.printed for process in self._started).decode() + self._reports.getvalue()
        self._ids.update(instance.id for instance in instances if instance.record.parent)
        result, checks = evaluate(
            instances,
            self._ids,
            single,
            self._killed,
            kill_wanted=self.kill,
            leads=self._leads,
            steps=steps_of(printed.splitlines()),
        )
        result |= {"nodes": self.nodes, "warnings": self.view.warnings}
        self.view.result(result, checks, stats, single)
        return result

    async def _until_interrupted(self) -> None:
        """Keep the dashboard open until a signal; the demo then goes on to its checks."""
        self.view.event("all jobs are done; the dashboard stays open until you press Ctrl-C")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    def _start(self, stack: AsyncExitStack, name: str, *arguments: str) -> DemoProcess:
        self._children[name] = stack.enter_context(DemoProcess(name, *arguments))
        return self._children[name]

    def _start_nodes(self, stack: AsyncExitStack, url: str) -> None:
        for name in [f"node-{number + 1}" for number in range(0 if self.in_process else self.nodes)]:
            options = (name, url, self._coordinator or "", self.namespace, str(self.workers))
            self._started.append(self._start(stack, name, "node", *options))

    def _check_children(self) -> None:
        """Raise DemoError if a child ended that the demo did not kill."""
        for child in self._children.values():
            child.check()

    async def _course(self, files: int, calls: Iterable[Call[workload.Receipt]]) -> Stats:
        """Schedule jobs; after a quarter, kill the leader; half way, add orders and slow jobs, and kill a node.

        Return the last numbers.
        """
        clock, half_way, final = self.clock, False, 0
        while (await self._look()).nodes < self.nodes + (not self.in_process):
            pass  # if a node cannot join, its process ends, and _look() raises DemoError
        await self._schedule(calls, "job")
        changed = clock.elapsed()
        while (stats := await self._look()).total(State.ACTIVE) or not half_way or self._leads.waiting:
            # first, because a fast cluster can be half way at the first look, and the other kill can hit the leader
            if self.kill and stats.total(State.COMPLETED) * 4 >= files:
                self._kill_leader()
            if not half_way and stats.total(State.COMPLETED) * 2 >= files:
                half_way = True
                await self._schedule([workload.order.call(f"order {n + 1}") for n in range(self.nodes)], "order")
                slow = [workload.slow.call(f"slow {number + 1}") for number in range(2 * self.nodes)]
                await self._schedule(slow, "slow job")
            elif half_way and self.kill and self._killed is None:
                await self._kill_one()
            if half_way:
                await self._approve()
            if stats.total(State.FINAL) != final:
                final, changed = stats.total(State.FINAL), clock.elapsed()
            elif clock.elapsed() - changed > STALL:
                break
        return stats

    async def _look(self) -> Stats:
        """Show the cluster after one tick; raises DemoError if a child ended that the demo did not kill."""
        await asyncio.sleep(TICK)
        self._check_children()
        if self._coordinator is not None:
            self._leads.see(await self._observer.leader())
        stats = await self._observer.stats()
        self.view.show(stats, [node for node in await self._observer.nodes() if node.info.workers])
        return stats

    async def _schedule(self, calls: Iterable[Call[workload.Receipt]], noun: str) -> None:
        instances = await self._observer.schedule_many(calls)
        self._ids.update(instance.id for instance in instances)
        self.view.event(f"scheduled {counted(len(instances), noun)}")

    async def _kill_one(self) -> None:
        """Kill the node that charges the most orders, and of these the most slow jobs; none if no slow job runs."""
        running = defaultdict[str | None, Counter[str]](Counter)
        async for instance in self._observer.iter_instances(Query(state=State.PROCESSING)):
            if instance.node in self._children and (
                instance.kind == workload.order.kind or instance.progress is not None
            ):
                running[instance.node][instance.kind] += 1
        orders, slow = str(workload.order.kind), str(workload.slow.kind)
        if not any(held[slow] for held in running.values()):
            return
        victim, held = max(running.items(), key=lambda item: (item[1][orders], item[1][slow]))
        marker = await self._observer.schedule(workload.urgent, f"the kill of {victim}")
        self._ids.add(marker.id)
        self._killed = Kill(node=str(victim), at_us=to_us(marker.created_at))
        self._children.pop(self._killed.node).kill()
        runs = f"{counted(held[orders], 'order')} and {counted(held[slow], 'slow job')}"
        self.view.event(f"kill -9 of {victim}, which runs {runs}")

    async def _approve(self) -> None:
        """Give their approval to orders that wait for it."""
        async for order in self._observer.iter_instances(Query(kind=workload.order.kind, state=State.SCHEDULED)):
            wait = order.record.wait
            if wait is not None and wait.signals and order.id not in self._approved:
                await self._observer.signal(order, workload.APPROVAL, True)
                self._approved.add(order.id)
                self.view.event(f"{order.args[0]} waits for approval, and gets it")

    def _kill_leader(self) -> None:
        """Kill the leader that the etcd elected, once, if two nodes are left then."""
        leader = self._leads.name
        if not self._leads.killed and self.nodes > 2 and leader in self._children:
            self._leads.kill()
            self._children.pop(leader).kill()
            self.view.event(f"kill -9 of {leader}, the leader")

    async def _show_events(self) -> None:
        async for event in self._observer.watch(Query(tag=workload.WATCHED)):
            if (entry := event.entry) is not None and (entry.note or entry.state is not State.SCHEDULED):
                note = f": {entry.note}" if entry.note else ""
                self.view.event(f"{event.instance.args[0]} is {str(entry.state).lower()} on {entry.node}{note}")

    async def _require_empty_namespace(self) -> None:
        """Raise DemoError for a namespace in use: the demo removes its namespace at the end."""
        instances, others = (await self._observer.stats()).total(), len(await self._observer.nodes()) - 1
        if instances or others:
            used = f"is in use ({counted(instances, 'instance')}, {counted(others, 'node')})"
            advice = "and the demo clears its own at the end: name another one, or leave --namespace out"
            raise DemoError(f"namespace {self.namespace!r} {used}, {advice}")

    async def _clear_namespace(self) -> None:
        """Remove the demo's namespace from a store that the user named."""
        if (url := self.store) is not None and not self.in_process:
            try:
                async with asyncio.timeout(CLEANUP_TIMEOUT):
                    await self._observer.stop(0)
                    await wipe_namespace(url, namespace=self.namespace, clock=self.clock)
            except (StoreError, TimeoutError) as error:
                self.view.warnings.append(f"namespace {self.namespace} was not cleared: {error}")
