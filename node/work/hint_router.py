"""Receives wake-ups and passes each to the role that it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.store.base import Store

WAIT = 5.0
"""Seconds for which one call waits; only to notice a new incarnation."""


class HintRouter(BackgroundRole):
    """Waits for hints to this incarnation."""

    name = "hints"
    restart_delay = 0.2

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        incarnation: Callable[[], str],
        receivers: Mapping[str, Callable[[str], object]],
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._incarnation = incarnation
        self._receivers = receivers
        """By what a hint is about; each takes the id in it."""

    async def run(self) -> None:
        while True:
            for hint in await self._store.next_hints(self._incarnation(), WAIT):
                receive = self._receivers.get(hint.what)
                if receive is not None:
                    receive(hint.id)
