"""A cluster of real nodes in one process, on one virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Literal, ParamSpec, Self, TypeVar, cast, get_args, overload
from uuid import UUID

from typing_extensions import Unpack

from peerjob.durations import Duration, format_seconds, to_seconds
from peerjob.errors import NodeStateError, NodeStoppedError, OptionError
from peerjob.instance import Instance
from peerjob.job import Call, Job
from peerjob.manager import Manager
from peerjob.node.managing import JobSource
from peerjob.node.node import GRACE, Lifespan, Node
from peerjob.record import Record, StoreLimits
from peerjob.store.kv.keys import Keys
from peerjob.testing.helpers import ClusterOptions

from .asserting import Assertions
from .faults import LATE, Faults, How
from .journal import Journal, words_of
from .jumps import Jumps
from .lanes import Lanes
from .member import Member
from .times import ClusterClock
from .wire import SharedData

Cut = Literal["store", "coordinator", "both"]
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

START = "2026-01-01T00:00:00+00:00"
NAMESPACE = "default"
BOOT = 60.0
"""Most virtual seconds in which the first nodes start and elect their leader."""


class TestCluster(Assertions):
    """Real nodes with a real election on one store in memory, in one process, on one virtual clock.

    Use it as an async context manager: inside, `nodes` nodes run ("node-1", "node-2", …; or give their names), one of
    them leads, and the wall clock shows `start`: an aware datetime, or ISO 8601 text with an offset. Time moves only
    in `advance`, `run_until_idle` and the other coroutines of the cluster, and jumps over stretches in which nothing
    happens (`jumps=False`: never). With a `latency`, each request and answer of the store is under way for so long on
    average, at random: the steps of nodes then come between one another, and a fault may meet a node between any two of
    its requests. The same `seed` gives the same course of events. `jobs`, `workers` and the other
    options are those of each node. An error that leaves the `async with` block tells the seed and the last events.
    """

    __test__: ClassVar[bool] = False  # no class of tests, whatever pytest makes of its name

    def __init__(
        self,
        *,
        nodes: int | Sequence[str] = 3,
        jobs: JobSource = (),
        seed: int = 0,
        start: datetime | str = START,
        workers: int = 10,
        limits: StoreLimits | None = None,
        latency: Duration = 0,
        jumps: bool = True,
        **options: Unpack[ClusterOptions],
    ) -> None:
        self.seed = seed
        self._names = _names(nodes)
        self._start = _moment(start)
        self._jobs = jobs
        self._workers = workers
        self._limits = limits or StoreLimits()
        self._options = options
        self._latency = to_seconds(latency, "latency")
        self._with_jumps = jumps
        self._data = SharedData()
        self._members: dict[str, Member] = {}
        self._starts = 0
        self._anyone = _Anyone(lambda: self._reachable().node, self._ask, self._until_final)
        self._lanes: Lanes
        self.clock: ClusterClock
        """The cluster's clock, which is right and moves all others."""

    # -- coming and going ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.clock = ClusterClock(self._start, self.seed)
        self.clock.install()
        self._lanes = Lanes()
        self._lanes.install()
        self._journal = Journal(self._data, NAMESPACE, self.clock)
        self._faults = Faults(self._journal.say)
        self._jumps = Jumps(
            clock=self.clock,
            data=self._data,
            journal=self._journal,
            members=self._members.values,
            is_disturbed=self._is_disturbed,
            keys=Keys(NAMESPACE),
            ttl_us=round(to_seconds(self._options.get("lease_ttl", 5.0), "lease_ttl") * 1_000_000),
        )
        try:
            with self.clock.standing():
                await self._boot()
        except BaseException:
            await self._close()
            raise
        self._jumps.disturbed()
        if self._with_jumps:
            self.clock.before_rest = self._jumps.consider
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._told_mark not in str(error):
            error.add_note(self._told())
        await self._close()

    async def _boot(self) -> None:
        for name in self._names:
            await self._run(self._start_member(name))
        if not await self.clock.until(self._is_led, BOOT):
            self._fail(f"no node leads {format_seconds(BOOT)} after the start")
        self._journal.say(f"{len(self._names)} node(s) run, {self.leader.name} leads")

    async def _start_member(self, name: str) -> None:
        self._starts += 1
        before = self._members.get(name)
        member = self._members[name] = Member(
            name,
            lanes=self._lanes,
            driver=self.clock,
            data=self._data,
            namespace=NAMESPACE,
            limits=self._limits,
            seed=f"{self.seed}/{name}/{self._starts}",
            faults=self._faults,
            journal=self._journal,
            latency=self._latency,
            make=self._make,
        )
        if before is not None:
            member.move_in(before)
        await self._in_lane(member, member.node.start())

    def _make(self, member: Member) -> Node:
        options = self._options.copy()
        options["lifespan"] = self._lifespan(member)
        return Node(
            member.store,
            jobs=self._jobs,
            workers=self._workers,
            name=member.name,
            namespace=NAMESPACE,
            clock=member.clock,
            coordinator=member.elections,
            limits=self._limits,
            **options,
        )

    def _lifespan(self, member: Member) -> Lifespan:
        @contextlib.asynccontextmanager
        async def lifespan(node: Node) -> AsyncGenerator[None]:
            member.watch_bodies()
            given = self._options.get("lifespan")
            async with contextlib.nullcontext() if given is None else given(node):
                yield

        return lifespan

    async def _close(self) -> None:
        self.clock.before_rest = lambda: False
        try:
            self._faults.clear()
            members = [member for member in self._members.values() if not member.lane.dropped]
            for member in members:
                self._heal(member)
                if member.lane.paused:
                    member.resume()
            stops = [self._in_lane(member, member.node.stop()) for member in members if member.node.running]
            if stops:
                await self.clock.run(asyncio.gather(*stops, return_exceptions=True))
        finally:
            self._lanes.uninstall()
            self.clock.uninstall()
            self._journal.close()

    # -- nodes --------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """The nodes whose processes are there, the paused ones too, by name."""
        return [member.node for _, member in sorted(self._members.items()) if member.lives]

    def node(self, name: str) -> Node:
        """The node of a name, as it was started last; raises NodeStateError for a name that no node has."""
        return self._member(name).node

    @property
    def leader(self) -> Node:
        """The node that may fire schedules now; raises NodeStateError while none may, as after the death of one."""
        for member in self._members.values():
            if member.is_leader:
                return member.node
        raise NodeStateError("no node leads at this moment; `await cluster.elected()` moves time on until one does")

    async def elected(self, limit: Duration = "1m") -> Node:
        """Move time on until a node leads, and return it; raises TimeoutError after `limit` of virtual time."""
        if not await self.clock.until(self._is_led, limit):
            raise TimeoutError(f"no node leads after {limit} of virtual time")
        return self.leader

    def _is_led(self) -> bool:
        return any(member.is_leader for member in self._members.values())

    def _is_disturbed(self) -> bool:
        return self._faults.planned or any(member.is_disturbed for member in self._members.values() if member.lives)

    def _note(self, text: str) -> None:
        """Note what is done to the cluster, which then needs its time to come to rest."""
        self._journal.say(text)
        self._jumps.disturbed()

    @property
    def faults(self) -> Faults:
        """What is planned to happen to calls of the store, and how often what happened."""
        return self._faults

    # -- faults -------------------------------------------------------------------------------------------------------

    async def kill(self, node: Node | str) -> None:
        """End a node as SIGKILL does: nothing of it runs again, it says no goodbye, and its lease runs out.

        Its bodies stop where they are: no `except` and no `finally` of theirs is entered before the cluster closes.
        A sync body goes on in its thread, since nothing ends a thread; the cluster takes no answer from it.
        """
        member = self._need(node)
        self._note(f"kill {member.name}")
        own = self._lanes.is_in(member.lane)
        member.kill()
        if own:
            await asyncio.get_running_loop().create_future()

    async def stop(self, node: Node | str, grace: Duration = GRACE) -> None:
        """Stop a node in order, as SIGTERM does, and move time on until it has left."""
        member = self._need(node)
        if member.lane.paused:
            raise NodeStateError(f"node {member.name!r} is paused: resume it first")
        self._note(f"stop {member.name}")
        await self._run(self._in_lane(member, member.node.stop(grace)))

    async def restart(self, node: Node | str) -> Node:
        """Start a node that was killed or stopped anew, in a new process under the same name; returns the new Node.

        What was done to its machine stays: a wrong clock, and a partition, in which it cannot start.
        """
        member = self._member(node)
        if member.lives:
            raise NodeStateError(f"node {member.name!r} runs: kill or stop it first")
        self._note(f"restart {member.name}")
        await self._run(self._start_member(member.name))
        return self.node(member.name)

    async def pause(self, node: Node | str) -> None:
        """Let a node stand still as SIGSTOP does: no code of it runs, its timers are late, its clock goes on.

        Calls that a test makes through the node wait until `resume`. A sync body goes on in its thread.
        """
        member = self._need(node)
        if not member.lane.paused:
            self._note(f"pause {member.name}")
            member.pause()

    async def resume(self, node: Node | str) -> None:
        """Let a paused node go on, as SIGCONT does; it finds its timers overdue."""
        member = self._need(node)
        if member.lane.paused:
            self._note(f"resume {member.name}")
            member.resume()

    async def partition(self, node: Node | str, from_: Cut = "both") -> None:
        """Cut a node off, from the store with the jobs, from the coordinator that elects the leader, or from both.

        Calls fail until `heal`, and watches tell nothing. A node tries each call again for 30 s.
        """
        member = self._member(node)
        if from_ not in get_args(Cut):
            raise OptionError("from_", from_, f"one of {', '.join(map(repr, get_args(Cut)))}")
        self._note(f"partition {member.name} from {from_}")
        if from_ != "coordinator":
            member.store_link.cut = True
        if from_ != "store":
            member.coordinator_link.cut = True

    async def heal(self, node: Node | str | None = None) -> None:
        """End what `partition`, `store_fails` and `slow` do, to one node or (None) to all."""
        members = list(self._members.values()) if node is None else [self._member(node)]
        self._note(f"heal {'all' if node is None else members[0].name}")
        self._faults.clear(None if node is None else members[0].name)
        for member in members:
            self._heal(member)

    async def skew(self, node: Node | str, by: Duration) -> None:
        """Set a node's wall clock ahead of the right time, or behind it ("-30s"); "0s" puts it right."""
        member = self._member(node)
        self._note(f"skew {member.name} by {by}")
        member.clock.ahead_us = round(to_seconds(by, "by", negative=True) * 1_000_000)

    async def store_fails(
        self,
        verb: str,
        times: int | None = 1,
        how: How = "error",
        *,
        node: Node | str | None = None,
        by: Duration = LATE,
    ) -> None:
        """Let the next calls of a verb of the store fail: so many (None: until `heal`), of one node or (None) of all.

        "error": the call is not done. "lost answer": it is done, and the caller cannot tell. "late": it is done at
        once, and the answer takes `by`. "repeated": it is done twice, word for word. `verb` is one of the store
        contract, of leases and elections too ("enqueue", "turn", "renew", "campaign" …); "claim" and "commit" mean the
        turns of nodes that do so, "*" is every verb. Raises OptionError.
        """
        name = None if node is None else self._member(node).name
        self._faults.add(verb, how, times=times, node=name, by=by)
        self._note(f"{verb} of {name or 'all'} fails {times or 'many'} time(s): {how}")

    async def slow(self, verb: str, by: Duration, *, node: Node | str | None = None) -> None:
        """Let each answer to a verb take so long until `heal`, for one node or (None) for all."""
        await self.store_fails(verb, None, "late", node=node, by=by)

    def _heal(self, member: Member) -> None:
        for link in (member.store_link, member.coordinator_link):
            if link.cut:
                link.heal()

    # -- work ---------------------------------------------------------------------------------------------------------

    @overload
    async def schedule(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> Instance[R]: ...
    @overload
    async def schedule(self, job: Call[R], /) -> Instance[R]: ...
    @overload
    async def schedule(self, job: str, /, *args: Any, **kwargs: Any) -> Instance[Any]: ...
    async def schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> Instance[Any]:
        """Schedule one run through a node that can be reached; see `Manager.schedule`.

        The instance outlives that node: its verbs go to whichever node can be reached, and waiting for it moves time
        on, for an hour at most where no timeout is given.
        """
        made: Instance[Any] = await self._ask(lambda node: node.schedule(job, *args, **kwargs))
        return Instance(cast(Manager, self._anyone), made.record, job=_job_of(job), is_new=made.is_new)

    async def advance(self, duration: Duration) -> None:
        """Let so much time pass: schedules fire, leases run out, backoffs and timeouts end."""
        await self.clock.advance(duration)

    async def run_until_idle(self, limit: Duration = "1h") -> None:
        """Let time pass until nothing is queued, delayed or running; raises AssertionError after `limit` of it."""
        if not await self.clock.until(lambda: not self._journal.is_active(), limit):
            rows = self._journal.rows()
            left = [words_of(id, rows[id]) for id in self._journal.active()[:10]]
            self._fail(f"not idle after {limit} of virtual time: {'; '.join(left)}")
        await self.clock.settle()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _run(self, work: Coroutine[Any, Any, T], limit: Duration = "1h") -> T:
        return await self.clock.run(work, limit)

    async def _ask(self, verb: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """Have a node that can be reached do something, and move time on for as long as it takes."""
        member = self._reachable()
        return await self._run(self._in_lane(member, verb(member.node)))

    async def _until_final(self, id: str, limit: Duration) -> bool:
        return await self.clock.until(lambda: not self._journal.is_active(id), limit)

    def _reachable(self) -> Member:
        for _, member in sorted(self._members.items()):
            if member.answers:
                return member
        raise NodeStateError("no node can be reached: each is dead, stopped, paused or cut off")

    async def _in_lane(self, member: Member, work: Coroutine[Any, Any, T]) -> T:
        """Await work in a node's lane; raises NodeStoppedError when the node is killed meanwhile."""
        task = self._lanes.start(member.lane, work)
        try:
            await asyncio.wait(
                [cast("asyncio.Future[Any]", task), member.lane.end], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if not (task.done() or member.lane.dropped):
                task.cancel()
        if member.lane.dropped and not task.done():
            raise NodeStoppedError(f"node {member.name!r} was killed before it answered; it may have done the work")
        return await task

    def _member(self, node: Node | str) -> Member:
        name = node if isinstance(node, str) else node.name
        member = self._members.get(name)
        if member is None:
            raise NodeStateError(f"no node is called {name!r}; there are {', '.join(sorted(self._members))}")
        return member

    def _need(self, node: Node | str) -> Member:
        member = self._member(node)
        if not member.lives:
            raise NodeStateError(f"node {member.name!r} does not run")
        return member


class _Anyone:
    """The manager of a cluster's instances: asks whichever node can be reached, and moves time on meanwhile."""

    def __init__(
        self,
        reachable: Callable[[], Node],
        ask: Callable[[Callable[[Node], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, Any]],
        until_final: Callable[[str, Duration], Coroutine[Any, Any, object]],
    ) -> None:
        self._reachable = reachable
        self._ask = ask
        self._until_final = until_final

    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        """As `Manager.wait_final`, for an hour at most where no timeout is given."""
        within = "1h" if timeout is None else timeout
        await self._until_final(str(uuid), within)
        found: Instance[Any] = await self._ask(lambda node: node.lookup_instance(uuid))
        if not found.state.is_final:
            raise TimeoutError(f"instance {uuid} is not final after {within} of virtual time")
        return found.record

    def __getattr__(self, name: str) -> Any:
        if not inspect.iscoroutinefunction(getattr(Node, name)):
            return getattr(self._reachable(), name)

        async def verb(*args: Any, **kwargs: Any) -> Any:
            return await self._ask(lambda node: getattr(node, name)(*args, **kwargs))

        return verb


def _names(nodes: int | Sequence[str]) -> list[str]:
    if isinstance(nodes, int):
        if isinstance(nodes, bool) or nodes < 1:
            raise OptionError("nodes", nodes, "a whole number of 1 or more, or names")
        return [f"node-{number}" for number in range(1, nodes + 1)]
    names = list(nodes)
    if isinstance(nodes, str) or not names or len(set(names)) < len(names):
        raise OptionError("nodes", nodes, "names that differ")
    return names


def _moment(start: datetime | str) -> datetime:
    expected = 'an aware datetime, or ISO 8601 text with an offset such as "2026-10-24T22:00+02:00"'
    try:
        moment = datetime.fromisoformat(start) if isinstance(start, str) else start
    except ValueError:
        raise OptionError("start", start, expected) from None
    if moment.tzinfo is None:
        raise OptionError("start", start, expected)
    return moment


def _job_of(target: Any) -> Job[..., Any, Any] | None:
    if isinstance(target, Call):
        target = cast("Any", target).job
    return cast("Job[..., Any, Any]", target) if isinstance(target, Job) else None
