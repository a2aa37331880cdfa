"""Fires the schedules, on whichever node leads."""

from __future__ import annotations

from collections.abc import Callable

from peerjob.clock import Clock
from peerjob.ids import IdSource
from peerjob.store.base import Store

from .election import Election
from .role import Role


class Cron(Role):
    """Keeps all schedules in memory while this node leads, and accounts for each nominal time when it comes.

    `offset` is how many microseconds this node's clock is ahead of the store's.
    """

    name = "cron"

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        election: Election,
        node: str,
        ids: IdSource,
        offset: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._election = election
        self._node = node
        self._ids = ids
        self._offset = offset

    def changed(self) -> None:
        """Read now what was changed, rather than at the next turn, as after a hint."""
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError
