"""The audit log of a node: each acting call of a caller becomes a record in the log and in the store.

Records go to the logger immediately. They go to the store together, once a second, so no call waits for its record.
Calls that schedule and differ in nothing that the record shows share one record in the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from msgspec import structs

from peerjob.cluster.role import BackgroundRole
from peerjob.model.audit import DENIED, MAX_AUDIT, MAX_CRITERIA, AuditRecord
from peerjob.model.clock import Clock
from peerjob.model.errors import NodeStateError, StoreError
from peerjob.model.record import MAX_BATCH

logger = logging.getLogger("peerjob.audit")

FLUSH_SECONDS = 1.0


class AuditLog(Protocol):
    """The node that writes records to its store."""

    name: str

    @property
    def running(self) -> bool: ...

    async def add_audit(self, records: Sequence[AuditRecord], /) -> None: ...


class AuditTrail(BackgroundRole):
    """Collects records, and writes them to the store once a second.

    The first record while the node runs starts its task, and the end of the node or of its server stops it.
    """

    name = "audit"

    def __init__(self, clock: Clock, log: AuditLog) -> None:
        super().__init__(clock)
        self._log = log
        self._waiting: dict[object, AuditRecord] = {}
        """The records that are not in the store yet, the oldest first. Similar calls have the same key."""
        self._dropped = 0

    def add(self, verb: str, principal: str, address: str, criteria: str, count: int | None, result: str) -> None:
        """Record a call that has ended. Refused calls only go to the logger: they must not displace other records."""
        # a name with half of a surrogate pair, which JSON of a JWT can contain, would keep all records out of the store
        principal = principal.encode(errors="backslashreplace").decode()
        now_us = self.clock.time_us()
        record = AuditRecord(
            id=f"{self.clock.random.getrandbits(64):016x}",
            at_us=now_us,
            principal=principal,
            address=address,
            verb=verb,
            criteria=criteria[:MAX_CRITERIA],
            count=count,
            result=result,
            node=self._log.name,
        )
        if logger.isEnabledFor(logging.INFO):
            fields = {name: value for name, value in structs.asdict(record).items() if name not in ("at_us", "calls")}
            shown = (principal, verb, record.criteria or "-", "-" if count is None else count, result)
            logger.info("%s %s %s count=%s: %s", *shown, extra={"audit": fields})
        if result == DENIED:
            return
        schedules = verb.startswith("ScheduleJob")
        key = (verb, principal, address, record.criteria, result) if schedules else record.id
        known = self._waiting.get(key)
        if known is not None:
            record = structs.replace(known, count=(known.count or 0) + (count or 0), calls=known.calls + 1)
        self._waiting[key] = record
        while len(self._waiting) > MAX_AUDIT:
            del self._waiting[next(iter(self._waiting))]
            self._dropped += 1
        if not self.started and self._log.running:
            self.start()

    async def run(self) -> None:
        while True:
            await self.pause(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write the records to the store. If it does not answer, they stay for the next time."""
        while self._waiting:
            taken = list(self._waiting.items())[:MAX_BATCH]
            for key, _ in taken:
                del self._waiting[key]
            try:
                await self._log.add_audit([record for _, record in taken])
            except BaseException:
                self._waiting = {record.id: record for _, record in taken} | self._waiting
                raise
        if self._dropped:
            logger.warning("%d record(s) did not get into the store, which was away; this log has them", self._dropped)
            self._dropped = 0

    async def flush_now(self) -> None:
        """Write the records now, unless the node has ended or the store does not answer."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.flush()
        except (StoreError, NodeStateError, TimeoutError) as error:
            logger.warning("%d record(s) are not in the store: %r", len(self._waiting), error)

    async def stop(self) -> None:
        """Stop, and write the last records."""
        await super().stop()
        await self.flush_now()
