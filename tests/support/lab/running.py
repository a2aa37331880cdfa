"""One run of one set-up: nodes at work, faults one after another, and the judgement at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

from peerjob import Node, Query, State, StoreError
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.drivers import open_elections, open_store
from support.onlooker import never_leading
from support.peers import READY, Peers
from support.processes import ChildProcess
from support.simulation.evidence import Absence, Order
from support.stalls import Span, now_us
from support.waiting import PATIENCE

from .checking import Strike, gather, read_journal, recoveries, summed_up, violations
from .clocks import JUMP, WHY_NOT, FakeClock, faketime
from .explaining import explained
from .flowing import Flowing, accepted_twice, read_steps
from .jobs import JOURNAL, noted
from .setups import SETUPS
from .site import FAILOVERS, Hit, Site

TTL = 3.0
NODES, WORKERS = 3, 8
TRIES = 5
"""Times that a node may end at its start, because the server is slow."""
AT_A_TIME, QUEUE = 25, 200
"""The caller adds so many instances at a time, while fewer than so many are not final."""
BODIES = (0.0, 0.005, 0.03, 0.2, 0.8)
PAUSE = TTL + 1.5
"""Seconds for which a node stands still, so that its peers take over from it."""
HARMED = 2.0
"""Seconds for which connections are harmed."""
QUIET = (0.5, 2.0)
"""Seconds between the end of a fault and the next one."""
REST, MAX_REST = 120.0, 600.0
"""Seconds after the last fault in which all work must end: without those in which the machine stalled, and with."""
LOOK = 5.0
"""Seconds after which the lab looks for nodes that have ended."""
STUCK = "stuck.txt"
"""The file that explains why instances waited for longer."""
KILL = "node SIGKILL"
CLOCKS = {"clock forwards": JUMP, "clock backwards": -JUMP}
MOVED_US = 10_000_000
"""After a failover of servers, claims that had not reached the new primary may run beside new ones for so long."""


@dataclass(kw_only=True)
class Report:
    """What came of one set-up."""

    setup: str
    seed: int
    seconds: float
    faults: Mapping[str, int]
    instances: int
    fires: int
    runs: int
    violations: Sequence[str]
    recovery: Mapping[str, Mapping[str, float]]
    """Kind of fault → how many recoveries, their median and maximum in seconds."""
    flows: int = 0
    members: int = 0
    steps: int = 0
    steps_again: int = 0
    """Steps whose functions were called more than once."""
    accepted_twice: int = 0
    """Steps of which more than one value was accepted."""
    moved: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """The same, of recoveries that include a failover of the server or another leader of etcd."""
    load: float = 0.0
    """The load of the machine at the end, as processes that want to run for each core."""
    rest: float = 0.0
    """Seconds from the last fault until all work had ended, or until the lab gave up."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Faults that this machine does not allow, and why."""

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(kw_only=True)
class _Run:
    site: Site
    group: Peers
    chance: Random
    folder: Path
    strikes: list[Strike] = field(default_factory=list[Strike])
    nodes: list[ChildProcess] = field(default_factory=list[ChildProcess])
    orders: dict[str, Order] = field(default_factory=dict[str, Order])
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    library: Path | None = field(default_factory=faketime)
    clocks: dict[int, FakeClock] = field(default_factory=dict[int, FakeClock])
    """Process of a node → its clock."""

    async def add_node(self) -> None:
        """Start a node, and wait until it is at work; another one in the place of one that ends at its start."""
        self.replace()
        node = self.nodes[-1]
        try:
            await node.line(READY)
        except AssertionError:
            if node.running or len(self.group.children) > TRIES * NODES:
                raise
            self.nodes.remove(node)
            await self.add_node()

    def replace(self) -> None:
        """Start a node in the place of one that has gone, without waiting for it."""
        clock = None
        if self.library is not None:
            clock = FakeClock(self.library, self.folder / f"clock-{len(self.group.children)}")
        env = None if clock is None else clock.env
        node = self.group.launch(workers=WORKERS, ttl=TTL, jobs="support.lab.jobs", env=env)
        self.nodes.append(node)
        if clock is not None:
            self.clocks[node.pid] = clock

    def revive(self) -> None:
        """Start another node for each that has ended by itself, as a supervisor does.

        A node ends if the store is away at its start.
        """
        for node in [node for node in self.nodes if not node.running]:
            self.nodes.remove(node)
            self.replace()

    @property
    def kills(self) -> int:
        return sum(strike.kind == KILL for strike in self.strikes)

    def shifts(self) -> list[Span]:
        """When another server took over, or etcd had another leader."""
        failovers = [(strike.begin_us, strike.end_us) for strike in self.strikes if strike.kind in FAILOVERS]
        return [*failovers, *self.site.shifts()]

    def victim(self) -> ChildProcess:
        """Take one of the nodes out of the list."""
        self.revive()
        return self.nodes.pop(self.chance.randrange(len(self.nodes)))

    async def keep_busy(self) -> None:
        """Schedule until it is enough; only the ids of an answer count as accepted."""
        client = self.group.client
        while not self.enough.is_set():
            self.revive()
            with contextlib.suppress(StoreError):
                if await client.count(Query(kind="noted", state=State.ACTIVE)) < QUEUE:
                    made = await client.schedule_many(noted.call(self.chance.choice(BODIES)) for _ in range(AT_A_TIME))
                    told_us = now_us()
                    self.orders.update((one.id, Order(id=one.id, kind="noted", told_us=told_us)) for one in made)
            await asyncio.sleep(0.2)


async def run(
    name: str,
    seconds: float,
    seed: int,
    folder: Path,
    tell: Callable[[str], None],
    stop: asyncio.Event,
    *,
    kills: int = 0,
) -> Report:
    """Run a set-up for so long and for so many kills of nodes, or until `stop` is set, and judge it."""
    chance = Random(f"{seed} {name}")
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o777)  # also for nodes that run as another user
    journal = shared / "journal"
    async with SETUPS[name](chance) as site, _peers(site, folder, journal) as group:
        running = _Run(site=site, group=group, chance=chance, folder=folder)
        if site.nodes is None:
            await asyncio.gather(*(running.add_node() for _ in range(NODES)))
        else:
            await site.nodes.start(group.client.namespace, shared)
        began = time.monotonic()
        flowing = Flowing(Random(f"flows {seed} {name}"))
        work = asyncio.gather(running.keep_busy(), flowing.keep_going(running.group.client, seconds, running.enough))
        faults = _faults(running)
        kinds: list[str] = []
        while not stop.is_set():
            if time.monotonic() >= began + seconds:
                if running.kills >= kills:
                    break
                kinds = [KILL]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), chance.uniform(*QUIET))
                break
            if not kinds:
                kinds = [*faults, *[KILL] * (len(faults) - 1)]
                chance.shuffle(kinds)
            kind = kinds.pop()
            begin_us = now_us()
            hit = await faults[kind]()
            running.strikes.append(
                Strike(kind=kind, begin_us=begin_us, end_us=now_us())
                if hit is None
                else Strike(kind=kind, begin_us=hit.begin_us, end_us=hit.end_us, node=hit.node)
            )
            counts = f"{len(running.strikes)} faults, {len(running.orders)} instances"
            tell(f"{name}: {counts}, {time.monotonic() - began:.0f} of {seconds:.0f} s")
        running.enough.set()
        await work
        if site.nodes is not None:
            await site.nodes.settled()
        return await _judged(name, seed, running, flowing, journal, began)


async def _judged(name: str, seed: int, running: _Run, flowing: Flowing, journal: Path, began: float) -> Report:
    client, over_us = running.group.client, now_us()
    if not await _at_rest(running, over_us):
        await _explain(running, journal, over_us)
    rest = (now_us() - over_us) / 1_000_000
    runs = read_journal(journal)
    absences = _absences(running)
    if running.site.nodes is not None:
        spans = await running.site.nodes.spans()
        absences += [Absence(node=node, why="paused", from_us=one, until_us=two) for node, (one, two) in spans]
    store = open_store(
        running.site.direct, namespace=client.namespace, clock=SystemClock(), limits=StoreLimits(), retry_for=PATIENCE
    )
    await store.open()
    try:
        durable, orders = flowing.evidence, running.orders | flowing.orders
        steps = read_steps(journal, durable)
        evidence = await gather(store, runs, orders, absences, durable, ttl=TTL)
    finally:
        await store.close()
    found, moved = recoveries(running.strikes, runs, running.shifts(), ttl=TTL)
    return Report(
        setup=name,
        seed=seed,
        seconds=round(time.monotonic() - began, 1),
        faults=dict(sorted(Counter(strike.kind for strike in running.strikes).items())),
        instances=len(evidence.records),
        fires=sum(record.count for ledger in evidence.ledgers for record in ledger.records),
        runs=len(runs),
        flows=len(durable.flows),
        members=sum(map(len, durable.flows.values())),
        steps=len(steps.calls),
        steps_again=steps.again,
        accepted_twice=accepted_twice(durable),
        violations=[str(violation) for violation in violations(evidence)],
        recovery={kind: summed_up(each) for kind, each in sorted(found.items())},
        moved={kind: summed_up(each) for kind, each in sorted(moved.items())},
        rest=round(rest, 1),
        load=round(os.getloadavg()[1] / (os.cpu_count() or 1), 1),
        left_out={**running.site.left_out, **({} if running.library else dict.fromkeys(CLOCKS, WHY_NOT))},
    )


async def _at_rest(running: _Run, since_us: int) -> bool:
    """Pause the schedules, and wait until all work has ended; False if it took too long."""
    client = running.group.client
    while (now_us() - since_us) / 1_000_000 < MAX_REST:
        if await asyncio.to_thread(running.group.stalls.took, since_us) > REST:
            break
        running.revive()
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(LOOK):
                for schedule in await client.schedules():
                    await schedule.pause()
                await client.wait()
                return True
    return False


async def _explain(running: _Run, journal: Path, since_us: int) -> None:
    """Write down why instances wait, and end the nodes: no body may end between two looks of the checker."""
    stalls = [span for child in running.group.children for span in running.group.stood_still(child.pid)]
    text = await explained(
        running.group.client,
        running.site.url,
        running.nodes,
        running.site.health,
        read_journal(journal),
        since_us,
        stalls,
    )
    (running.folder / STUCK).write_text(text)
    for node in running.nodes:
        node.close()


def _absences(running: _Run) -> list[Absence]:
    """When the process of a node was gone, or stood still, for any reason."""
    found: list[Absence] = []
    for strike in running.strikes:
        if strike.kind == KILL and strike.node:
            # until the kill is over, a body of the node can begin
            found.append(Absence(node=strike.node, why="killed", from_us=strike.end_us))
        elif strike.kind == "node SIGSTOP" and strike.node:
            found.append(Absence(node=strike.node, why="paused", from_us=strike.begin_us, until_us=strike.end_us))
        elif strike.kind in FAILOVERS:
            found += [
                Absence(node=str(child.pid), why="paused", from_us=strike.begin_us, until_us=strike.end_us + MOVED_US)
                for child in running.group.children
            ]
    for child in running.group.children:
        spans = running.group.stood_still(child.pid)
        found += [Absence(node=str(child.pid), why="paused", from_us=one, until_us=two) for one, two in spans]
    return found


def _faults(running: _Run) -> dict[str, Callable[[], Coroutine[Any, Any, Hit | None]]]:
    """What can be done in this set-up, by name; the answer says which node was hit."""
    site, chance = running.site, running.chance

    async def kill() -> Hit:
        node = running.victim()
        begin_us = now_us()
        node.kill()
        end_us = now_us()
        running.replace()
        return Hit(node=str(node.pid), begin_us=begin_us, end_us=end_us)

    async def freeze() -> Hit:
        node = running.victim()
        begin_us = now_us()
        node.pause()
        await asyncio.sleep(PAUSE)
        end_us = now_us()
        node.resume()
        running.nodes.append(node)
        return Hit(node=str(node.pid), begin_us=begin_us, end_us=end_us)

    async def terminate() -> Hit:
        node = running.victim()
        begin_us = now_us()
        await asyncio.to_thread(node.terminate)
        end_us = now_us()
        running.replace()
        return Hit(node=str(node.pid), begin_us=begin_us, end_us=end_us)

    async def cut() -> None:
        with chance.choice(site.proxies).cut():
            await asyncio.sleep(HARMED + TTL * chance.random())

    async def delay() -> None:
        with chance.choice(site.proxies).delayed(chance.uniform(0.05, 0.3)):
            await asyncio.sleep(HARMED)

    async def slow() -> None:
        with chance.choice(site.proxies).slowed():
            await asyncio.sleep(HARMED)

    async def reset() -> None:
        chance.choice(site.proxies).drop()

    async def clock(ahead: float) -> None:
        node = chance.choice([node for node in running.nodes if node.running])
        running.clocks[node.pid].set(ahead)
        await asyncio.sleep(HARMED + TTL * chance.random())
        running.clocks[node.pid].set(0.0)

    if site.nodes is not None:
        return {**site.nodes.harms(chance), **site.harms}
    nodes = {KILL: kill, "node SIGSTOP": freeze, "node SIGTERM": terminate}
    clocks = {kind: partial(clock, ahead) for kind, ahead in CLOCKS.items()} if running.library else {}
    network = {"network cut": cut, "network delay": delay, "network slow": slow, "network reset": reset}
    return {**nodes, **clocks, **(network if site.proxies else {}), **site.harms}


@asynccontextmanager
async def _peers(site: Site, folder: Path, journal: Path) -> AsyncGenerator[Peers]:
    """Nodes behind the proxies, and a client that reaches the servers without them."""
    namespace = f"lab-{uuid4().hex[:8]}"
    coordinator = site.direct_coordinator or site.direct
    elections = never_leading(open_elections(coordinator, namespace=namespace, clock=SystemClock()))
    async with Node(
        site.direct, coordinator=elections, namespace=namespace, name="client", workers=0, allow_unknown=True
    ) as client:
        group = Peers(site.url, namespace, folder, client, site.coordinator, env={JOURNAL: str(journal)})
        with group.stalls:
            try:
                yield group
            finally:
                for child in group.children:
                    child.close()
