"""Receives the hints for this incarnation, and passes each one to the part that it is for."""

from __future__ import annotations

from peerjob.cluster.cron import CronRole
from peerjob.cluster.election import Election
from peerjob.cluster.lease import Lease
from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.node.manager.waiters import Waiters
from peerjob.node.manager.watchers import Watchers
from peerjob.store.base import Store

from .outbox import Outbox
from .run import HeldClaims

WAIT = 5.0
"""Most seconds that one call waits for hints. After a change of incarnation, the next call uses the new incarnation."""


class HintRouter(BackgroundRole):
    """Waits for hints. A hint only wakes a part of the node, which reads the store again."""

    name = "hints"
    restart_delay = 0.2

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        held_claims: HeldClaims,
        outbox: Outbox,
        lease: Lease,
        waiters: Waiters,
        watchers: Watchers,
        election: Election,
        cron: CronRole,
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._held_claims = held_claims
        self._outbox = outbox
        self._lease = lease
        self._waiters = waiters
        self._watchers = watchers
        self._election = election
        self._cron = cron

    async def run(self) -> None:
        while True:
            for hint in await self._store.next_hints(self._held_claims.incarnation, WAIT):
                match hint.what:
                    case "work":
                        self._outbox.hint()
                    case "cancel":
                        self._lease.renew_soon()
                    case "final":
                        self._waiters.ended(hint.id)
                    case "change":
                        self._watchers.changed(hint.id)
                    case "schedule":
                        self._cron.changed()
                    case "leader":
                        self._election.soon()
                    case _:
                        pass  # a later version of peerjob can send hints that this version does not know
