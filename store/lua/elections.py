"""The leadership of a namespace, kept on its own server; the server's clock ends a term."""

from __future__ import annotations

import asyncio

from peerjob.model.firing import Candidate, Leader, Term

from .script import Reply
from .separate_client import SeparateClient

IDENTITY = "store"
FIRST_TIMEOUT = 2.0


class LuaElections(SeparateClient):
    """Campaigns and resigns. The store hints a resignation to every node, so `changed` only waits."""

    _timeout = FIRST_TIMEOUT

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        self._timeout = ttl_us / 5_000_000
        reply = await self._run(
            "campaign",
            candidate.incarnation,
            candidate.name,
            ttl_us,
            self._clock.time_us(),
            timeout=self._timeout,
        )
        return _leader(reply)

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        # `refused` is ignored: the server grants only terms above every term that the server has seen, also above the
        # refused one.
        await self._run("resign", incarnation, timeout=self._timeout)

    async def leader(self) -> Leader | None:
        reply = await self._run("leader", timeout=self._timeout)
        return _leader(reply) if reply else None

    async def changed(self, timeout: float) -> bool:
        await asyncio.sleep(timeout)
        return False


def _leader(reply: Reply) -> Leader:
    incarnation, name, term, since = reply
    return Leader(
        incarnation=incarnation.decode(), name=name.decode(), term=Term(IDENTITY, int(term)), since_us=int(since)
    )
