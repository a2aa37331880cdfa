"""Stands in for commands that an engine does not have yet. To be removed before the branch is merged."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.durable import SignalAnswer, StepPage
from peerjob.model.record import Enqueued, Held, NewChild


class DurableStub:
    """Each command raises NotImplementedError."""

    async def require_layout(self, layout: int, what: str) -> None:
        raise NotImplementedError

    async def spawn(self, incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        raise NotImplementedError

    async def signal(self, id: str, name: str, value: bytes) -> SignalAnswer:
        raise NotImplementedError

    async def steps(self, id: str, *, cursor: str | None = None) -> StepPage:
        raise NotImplementedError

    async def open_needs(self, ids: Sequence[str]) -> list[int]:
        raise NotImplementedError

    async def settle(self, limit: int = 100) -> bool:
        raise NotImplementedError
