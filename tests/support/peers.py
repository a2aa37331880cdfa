"""Node processes of one namespace, a client beside them, and what must hold of everything they did."""

import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

from peerjob import Instance, Manager, Node, Query, State
from peerjob.model.clock import SystemClock
from peerjob.model.firing import Leader
from peerjob.model.state import ARROWS
from peerjob.store.drivers import open_elections
from support.onlooker import never_leading
from support.processes import ChildProcess
from support.releases import Release
from support.server_stalls import ServerStalls
from support.stalls import Span, Stalls, stalls_in
from support.waiting import until

TTL = 5.0
"""Seconds of a lease, which a node keeps although it is not scheduled for a while: what ends it is done to it."""
READY = r"runs \d+ worker"


class NodeOptions(TypedDict, total=False):
    """Options of a node process; see support/node_process.py."""

    name: str
    workers: int
    ttl: float
    grace: float
    jobs: str
    coordinator: str
    ahead: float


class Peers:
    """Starts node processes; `client` schedules and looks, and neither runs nor leads anything."""

    def __init__(
        self,
        url: str,
        namespace: str,
        folder: Path,
        client: Node,
        coordinator: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.client = client
        self.servers = [ServerStalls(one) for one in (url, coordinator)]
        self.stalls = Stalls(others=self._stalls_of_others)
        """Of this process, of the nodes that the test did not pause itself, and of the servers."""
        self._url = url
        self._namespace = namespace
        self._folder = folder
        self._coordinator = coordinator
        self._env = env or {}
        self._serial = itertools.count(1)
        self.children: list[ChildProcess] = []
        self._names: dict[str, ChildProcess] = {}

    def start(self, release: Release | None = None, **options: Unpack[NodeOptions]) -> ChildProcess:
        """Start a node, and wait until it is at work."""
        child = self.launch(release, **options)
        child.wait_for(READY)
        return child

    def launch(
        self, release: Release | None = None, *, env: Mapping[str, str] | None = None, **options: Unpack[NodeOptions]
    ) -> ChildProcess:
        """Start a node without waiting for it, by default of this tree; by default it is called `node-<n>`."""
        serial = next(self._serial)
        settings: NodeOptions = {"name": f"node-{serial}", "ttl": TTL, **options}
        if self._coordinator is not None:
            settings["coordinator"] = self._coordinator
        child = ChildProcess.python(
            "support.node_process",
            *(self._url, self._namespace),
            *(f"--{option}={value}" for option, value in settings.items()),
            *(["--adds"] if release is not None and release.adds else []),
            *([f"--reads={release.reads}"] if release is not None and release.reads else []),
            output=self._folder / f"node-{serial}.log",
            env={**self._env, **(env or {}), **({} if release is None else {"PYTHONPATH": release.path})},
        )
        self.children.append(child)
        self._names[settings["name"]] = child
        return child

    def stood_still(self, pid: int) -> Sequence[Span]:
        """When the process of a node stood still, for any reason."""
        return stalls_in(line for child in self.children if child.pid == pid for line in child.lines)

    def recovery(self, killed_us: int, claimed_us: int) -> float:
        """Seconds from the end of a node until a peer has taken its claims back, without stalls.

        A peer reaps once its renewals were answered for a TTL. A stall can leave one without an answer. Then this TTL
        begins anew, and so does the time.
        """
        began_us = self.stalls.last_end(killed_us, claimed_us, least=TTL / 10)
        whole, seconds = (claimed_us - killed_us) / 1_000_000, self.stalls.took(began_us, claimed_us)
        print(f"recovery: {whole:.2f} s at a lease of {TTL} s, {seconds:.2f} s since a stall and without stalls")
        return seconds

    def _stalls_of_others(self) -> list[Span]:
        nodes = [span for child in self.children if not child.was_paused for span in stalls_in(child.lines)]
        return [*nodes, *(span for server in self.servers for span in server.spans())]

    async def leading(self, *, after: int = 0) -> tuple[ChildProcess, Leader]:
        """Wait until a node leads in a term later than this one, and return it."""
        leader: Leader | None = None

        async def look() -> bool:
            nonlocal leader
            leader = await self.client.leader()
            return leader is not None and leader.term.number > after

        await until(look)
        assert leader is not None
        return self._names[leader.name], leader

    async def running(self, count: int, *, on: str | None = None, begun: bool = False) -> list[Instance[Any]]:
        """Wait until so many instances run (on one node), and return them.

        With `begun`, only runs count whose start the store has recorded: those that reported progress.
        """
        found: list[Instance[Any]] = []

        async def look() -> bool:
            nonlocal found
            query = Query(state=State.PROCESSING, limit=1000)
            found = [
                one
                async for one in self.client.iter_instances(query)
                if on in (None, one.node) and (one.progress is not None or not begun)
            ]
            return len(found) >= count

        await until(look)
        return found


@asynccontextmanager
async def peers(url: str, namespace: str, folder: Path, coordinator: str | None = None) -> AsyncGenerator[Peers]:
    """A client, and node processes that end with the test; by default the store is their coordinator."""
    elections = never_leading(open_elections(coordinator or url, namespace=namespace, clock=SystemClock()))
    async with Node(
        url,
        coordinator=elections,
        namespace=namespace,
        name="client",
        workers=0,
        lease_ttl=TTL,
        allow_unknown=True,
    ) as client:
        group = Peers(url, namespace, folder, client, coordinator)
        with group.stalls, contextlib.ExitStack() as watching:
            for server in group.servers:
                watching.enter_context(server)
            try:
                yield group
            finally:
                for child in group.children:
                    child.close()


async def everything(client: Manager) -> list[Instance[Any]]:
    return [one async for one in client.iter_instances(Query(limit=1000))]


def check_histories(instances: Iterable[Instance[Any]]) -> None:
    """LEGAL-HISTORY and ONE-OWNER, from what was recorded: legal arrows, times that never go back, one final state."""
    for instance in instances:
        history = instance.record.history
        states = [entry.state for entry in history]
        assert states[:2] == [State.CREATED, State.SCHEDULED], instance
        for before, after in itertools.pairwise(states):
            assert after & ARROWS[before], (instance, states)
        assert sum(state.is_final for state in states) <= 1
        times = [entry.at_us for entry in history]
        assert times == sorted(times)
