"""Node processes of one namespace, a client beside them, and what must hold of everything they did."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from peerjob import Instance, Node, Query, State
from peerjob.state import ARROWS
from support.processes import ChildProcess

TTL = 2.0


class Peers:
    """Starts node processes; `client` schedules and looks, and runs nothing."""

    def __init__(self, url: str, namespace: str, folder: Path, client: Node) -> None:
        self.client = client
        self._url = url
        self._namespace = namespace
        self._folder = folder
        self._serial = itertools.count(1)
        self.children: list[ChildProcess] = []

    def start(self, *, name: str = "", workers: int = 10, ttl: float = TTL, grace: float = 0.2) -> ChildProcess:
        serial = next(self._serial)
        child = ChildProcess.python(
            "support.node_process",
            *(self._url, self._namespace, "--name", name or f"node-{serial}"),
            *("--workers", str(workers), "--ttl", str(ttl), "--grace", str(grace)),
            output=self._folder / f"node-{serial}.log",
        )
        child.wait_for(r"runs \d+ worker")
        self.children.append(child)
        return child

    async def running(self, count: int, *, on: str | None = None, timeout: float = 20) -> list[Instance[Any]]:
        """Wait until so many instances run (on one node), and return them."""
        found: list[Instance[Any]] = []

        async def look() -> bool:
            nonlocal found
            query = Query(state=State.PROCESSING, limit=1000)
            found = [one async for one in self.client.iter_instances(query) if on is None or one.node == on]
            return len(found) >= count

        await until(look, timeout)
        return found


@asynccontextmanager
async def peers(url: str, namespace: str, folder: Path) -> AsyncGenerator[Peers]:
    """A client, and node processes that end with the test."""
    async with Node(url, namespace=namespace, name="client", workers=0, lease_ttl=TTL, allow_unknown=True) as client:
        group = Peers(url, namespace, folder, client)
        try:
            yield group
        finally:
            for child in group.children:
                child.close()


async def until(condition: Callable[[], Any], timeout: float) -> None:
    """Ask again, every 20 ms, until the condition holds."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110  # what the store says has no signal
            await asyncio.sleep(0.02)


async def everything(client: Node) -> list[Instance[Any]]:
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
