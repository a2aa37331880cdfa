"""Elections that a test follows without taking part."""

from collections.abc import Callable

from peerjob import StoreUnavailableError
from peerjob.model.firing import Candidate, Leader, Term
from peerjob.store.base import Elections


class NonLeader:
    """A candidate that never wins: it learns the leader, and never leads itself."""

    def __init__(self, elections: Elections) -> None:
        self._elections = elections

    async def open(self) -> None:
        await self._elections.open()

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        leader = await self._elections.leader()
        if leader is None:
            raise StoreUnavailableError("the coordinator", "no node leads")
        return leader

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        pass

    async def leader(self) -> Leader | None:
        return await self._elections.leader()

    async def changed(self, timeout: float) -> bool:
        return await self._elections.changed(timeout)

    async def close(self) -> None:
        await self._elections.close()


def never_leading(make: Callable[[], Elections]) -> Callable[[], NonLeader]:
    """What a node takes as its coordinator so that it never leads."""
    return lambda: NonLeader(make())
