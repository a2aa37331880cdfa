"""An upgrade under load: nodes of two releases share a namespace, forwards and back, and nodes of both die."""

import asyncio
import signal
from pathlib import Path

import pytest

from peerjob import (
    INJECTED,
    Context,
    Flow,
    Job,
    JobFailed,
    LayoutError,
    Node,
    Query,
    State,
    StoreLimits,
    SystemClock,
)
from peerjob.store.rules import FLOWS_LAYOUT
from support.builds import kept, newer_store, written
from support.fault_jobs import work
from support.fires import fired_until, settled
from support.peers import READY, Peers, everything, peers
from support.processes import ChildProcess
from support.releases import Release, before_flows, two_releases
from support.waiting import PATIENCE, until

pytestmark = pytest.mark.matrix("runs a release beside this tree; test_two_builds.py has the rules of the store")

CALLERS = 2
PAUSE = 0.02
"""Seconds between two calls of one caller, so that the audit at the end has some thousands to read at most."""
TTL = 2.0
WORKERS = 4
KILLED = 2 * WORKERS + 3
"""Jobs that hold workers of three nodes when one of them is killed: so that one runs at least three of them."""
TICKING = work.with_options(cron="* * * * * *", overlap="allow", name="tick")


STEPS = [(True, 0, False), (True, 1, True), (False, 0, True), (False, 1, False)]
"""Whether to the later release, the node to replace, and whether by a kill."""


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


class Load:
    """Schedules and awaits jobs all the time, through a node of each release, and notes which processes ran them."""

    def __init__(self, *managers: Node) -> None:
        self._managers = managers
        self._over = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self.done = 0
        self.seen: set[tuple[int, int]] = set()
        """Pairs: the number of the manager that scheduled, and the process that ran."""

    def start(self) -> None:
        self._running = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for place in range(len(self._managers)):
                for number in range(CALLERS):
                    group.create_task(self._call(place, number))

    async def _call(self, place: int, number: int) -> None:
        while not self._over.is_set():
            number += CALLERS
            made = await self._managers[place].schedule("work", number, 0.02, allow_unknown=True)
            got, _, pid = await made.result(timeout=PATIENCE)
            assert got == number
            self.seen.add((place, pid))
            self.done += 1
            await asyncio.sleep(PAUSE)

    async def reached(self, nodes: list[tuple[str, ChildProcess]]) -> None:
        """Wait until each of these nodes has run jobs of each release from now on, and only these run."""
        self.seen.clear()
        wanted = {(place, node.pid) for place in range(len(self._managers)) for _, node in nodes}

        async def look() -> bool:
            assert self._running is not None
            assert not self._running.done(), self._running.exception()
            return self.seen >= wanted

        await until(look)

    async def end(self) -> None:
        self._over.set()
        assert self._running is not None
        await self._running


Named = tuple[str, ChildProcess]


async def start(group: Peers, release: Release) -> Named:
    """Start a node of a release; its name, and its process."""
    name = f"{release.name} {len(group.children)}"
    node = group.launch(release, name=name, ttl=TTL, grace=10, workers=WORKERS)
    await node.line(READY)
    return name, node


async def replace(group: Peers, old: Named, release: Release, folder: Path, *, kill: bool) -> Named:
    """Start a node of a release, and end another one: in order, or while its jobs run."""
    made, (name, node) = await start(group, release), old
    if kill:
        gate = folder / f"{name} is killed"
        for _ in range(KILLED):
            await group.client.schedule("gated", str(gate))
        await group.running(3, on=name)
        node.kill()
        gate.touch()
    else:
        node.signal(signal.SIGTERM)
        assert await node.exit() == 0
    return made


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("url", "steps"),
    [
        ("redis", [STEPS[0], STEPS[2]]),
        *(pytest.param(name, STEPS, marks=pytest.mark.soak) for name in ("redis", "valkey", "etcd", "sqlite")),
    ],
    indirect=["url"],
)
async def test_an_upgrade_and_a_return_lose_nothing(
    url: str, steps: list[tuple[bool, int, bool]], namespace: str, tmp_path: Path
) -> None:
    before, after = two_releases(tmp_path)
    limits, clock = StoreLimits(), SystemClock()
    later = newer_store(url, namespace=namespace, clock=clock, limits=limits)
    async with (
        peers(url, namespace, tmp_path) as group,
        Node(later, namespace=namespace, name="later client", workers=0, allow_unknown=True) as later_client,
    ):
        client = group.client
        nodes = [await start(group, before) for _ in range(2)]
        await client.add_schedule(TICKING, 1, 0.0)
        load = Load(client, later_client)
        load.start()
        await load.reached(nodes)
        for forward, place, kill in steps:
            nodes[place] = await replace(group, nodes[place], after if forward else before, tmp_path, kill=kill)
            await load.reached(nodes)
            await fired_until(client, "tick", client.clock.time_us())
        await load.end()
        ledger = (await settled(client))["tick"]
        instances = await everything(client)
        taken_back = sum(one.losses + one.crashes for one in instances)
        print(f"{load.done} calls, {len(ledger)} fires, {taken_back} taken back")
        assert taken_back
        assert {one.attempts for one in instances} == {1}
        assert await client.count(Query(state=State.COMPLETED)) == len(instances)
        fired = sum(entry.instance_id is not None for entry in ledger)
        kills = sum(kill for _, _, kill in steps)
        assert len(instances) == load.done + fired + kills * KILLED
        born_later = [one for one in instances if one.record.history[0].node == "later client"]
        assert born_later
        for one in born_later[:: max(1, len(born_later) // 50)]:
            assert await kept(later, one.id) == written(later)


async def add(number: int, context: Context = INJECTED) -> int:
    return await context.step("add", lambda: number + 1)


ADD = Job("add", add, max_retries=0)


@pytest.mark.parametrize("shallow", [False, True])
@pytest.mark.parametrize("url", ["redis", "etcd"], indirect=True)
async def test_the_first_step_waits_until_no_node_reads_only_an_older_layout(
    url: str, shallow: bool, namespace: str, tmp_path: Path
) -> None:
    before = Release("an older layout", reads=FLOWS_LAYOUT - 1) if shallow else before_flows(tmp_path)
    flow = Flow("add")
    flow.add(ADD.call(flow.add(ADD.call(1)).output))
    async with (
        peers(url, namespace, tmp_path) as group,
        Node(url, namespace=namespace, jobs=[ADD], workers=2, name="here") as here,
    ):
        old = group.launch(before, name="old", ttl=TTL, grace=10, workers=4)
        await old.line(READY)
        new = await start(group, Release("this tree"))
        load = Load(group.client)
        load.start()
        await load.reached([("old", old), new])
        for refused in (await here.schedule(ADD, 1), await here.schedule(ADD, 2)):
            with pytest.raises(JobFailed, match=rf"LayoutError: durable steps need layout {FLOWS_LAYOUT} .*: old;"):
                await refused.result(timeout=PATIENCE)
        with pytest.raises(LayoutError, match=r"these nodes read only an older layout: old;") as raised:
            await here.schedule_flow(flow)
        assert list(raised.value.nodes) == ["old"]
        await load.reached([("old", old), new])
        old.signal(signal.SIGTERM)
        assert await old.exit() == 0
        assert await (await here.schedule(ADD, 1)).result(timeout=PATIENCE) == 2
        run = await here.schedule_flow(flow)
        await run.result(timeout=PATIENCE)
        await load.reached([new])
        await load.end()
        late = group.launch(before, name="late", ttl=TTL, grace=10, workers=4)
        assert await late.exit() != 0
        assert f"layout {FLOWS_LAYOUT}" in "".join(late.lines)
