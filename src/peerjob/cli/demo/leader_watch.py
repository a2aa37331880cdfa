"""The leader of the demo's nodes, which an etcd elects: the first one, and the next one after a kill."""

import asyncio
from collections.abc import Callable

from peerjob import Clock, Leader
from peerjob.store.drivers import open_elections


class LeaderWatch:
    """Tells of each new leader, and measures the time from the kill of a leader until a peer leads."""

    def __init__(self, clock: Clock, tell: Callable[[str], object]) -> None:
        self.name = ""
        self.killed = ""
        """The leader that the demo killed."""
        self.successor = ""
        """The next leader."""
        self.seconds: float | None = None
        """The time from the kill until a peer led."""
        self._clock, self._tell, self._killed_at = clock, tell, 0.0

    @property
    def waiting(self) -> bool:
        """Whether a leader was killed, and no peer leads yet."""
        return self.killed != "" and self.seconds is None

    def see(self, leader: Leader | None) -> None:
        """Compare the leader with the last one."""
        if leader is not None and leader.name != self.name:
            self.name = leader.name
            if self.waiting:
                self.successor = leader.name
                self.seconds = round(self._clock.elapsed() - self._killed_at, 3)
            self._tell(f"etcd elected {leader.name} as the leader (term {leader.term.number})")

    def kill(self) -> None:
        """Remember that the leader is killed now."""
        self.killed, self._killed_at = self.name, self._clock.elapsed()


async def first_leader(coordinator: str, namespace: str, clock: Clock, tick: Callable[[], object]) -> None:
    """Wait until a node leads; calls `tick` while there is none.

    The demo's own node starts later, so that the leader is a node that the demo can kill.
    """
    elections = open_elections(coordinator, namespace=namespace, clock=clock)()
    await elections.open()
    try:
        while await elections.leader() is None:
            tick()
            await asyncio.sleep(0.1)
    finally:
        await elections.close()
