"""Receives wake-ups and passes each to the role that it is for."""

from __future__ import annotations

from collections.abc import Callable

from peerjob.clock import Clock
from peerjob.cluster.role import Role
from peerjob.record import Hint
from peerjob.store.base import Store

WAIT = 5.0
"""Seconds for which one call waits; only to notice a new incarnation."""


class HintReceiver(Role):
    """Waits for hints to this incarnation."""

    name = "hints"
    restart_delay = 0.2

    def __init__(
        self, *, clock: Clock, store: Store, incarnation: Callable[[], str], receive: Callable[[Hint], None]
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._incarnation = incarnation
        self._receive = receive

    async def run(self) -> None:
        while True:
            for hint in await self._store.next_hints(self._incarnation(), WAIT):
                self._receive(hint)
