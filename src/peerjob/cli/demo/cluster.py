"""The node processes: started, watched over, killed, stopped."""

from __future__ import annotations

import asyncio
import signal
from typing import Self

from .children import Child
from .node_process import GRACE

STOP_TIMEOUT = GRACE + 4.0


class Cluster:
    """Node processes by name. One that was killed stays listed; one that ends by itself is an error."""

    def __init__(self) -> None:
        self._children: dict[str, Child] = {}
        self.killed: str | None = None

    def start(self, count: int, *, store: str, namespace: str, workers: int) -> None:
        """Start so many more processes; they join when they are ready."""
        for number in range(len(self._children) + 1, len(self._children) + count + 1):
            name = f"node-{number}"
            arguments = ["--store", store, "--namespace", namespace, "--name", name, "--workers", str(workers)]
            self._children[name] = Child(name, "node_process", arguments)

    @property
    def pids(self) -> dict[str, int]:
        """Name → process id of every node ever started."""
        return {name: child.pid for name, child in self._children.items()}

    def check(self) -> None:
        """Raise DemoError if a node has ended that was not killed."""
        for name, child in self._children.items():
            if name != self.killed:
                child.check()

    def kill(self, name: str) -> int:
        """Kill one node at this instant; its process id."""
        self.killed = name
        child = self._children[name]
        child.kill()
        return child.pid

    async def stop(self) -> None:
        """Ask every node to leave in order, and wait for that."""
        for child in self._children.values():
            child.signal(signal.SIGTERM)
        await asyncio.gather(*(child.ended(STOP_TIMEOUT) for child in self._children.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for child in self._children.values():
            child.hang_up()
        for child in self._children.values():
            child.close()
