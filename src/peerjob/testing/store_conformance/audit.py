"""The audit log: it keeps the latest records."""

import asyncio

from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.store.base import Store

from .suite import StoreSuite


class AuditRules(StoreSuite):
    """Rules of `add_audit` and `audit`."""

    async def test_records_are_read_back_the_latest_first(self, store: Store) -> None:
        assert await store.audit() == []
        first, second, third = (self._record(number) for number in range(3))
        await store.add_audit([first, second])
        await store.add_audit([])
        await store.add_audit([third])
        assert await store.audit() == [third, second, first]
        assert await store.audit(2) == [third, second]

    async def test_a_clear_keeps_the_log(self, store: Store) -> None:
        await store.add_audit([self._record(1)])
        await store.clear()
        assert await store.audit() == [self._record(1)]

    async def test_a_log_belongs_to_its_namespace(self, store: Store) -> None:
        neighbour = await self.open(namespace=f"{self.namespace}b")
        await neighbour.add_audit([self._record(1)])
        assert await store.audit() == []

    async def test_only_the_latest_records_are_kept(self, store: Store) -> None:
        records = [self._record(number) for number in range(MAX_AUDIT + 30)]
        for first in range(0, len(records), 500):
            await store.add_audit(records[first : first + 500])
        assert await store.audit(5_000) == records[: -MAX_AUDIT - 1 : -1]

    async def test_records_of_several_nodes_at_a_time_are_all_kept(self, store: Store) -> None:
        records = [self._record(number) for number in range(40)]
        await asyncio.gather(*(store.add_audit(records[at : at + 10]) for at in range(0, 40, 10)))
        assert sorted(record.at_us for record in await store.audit()) == list(range(40))

    def _record(self, number: int) -> AuditRecord:
        return AuditRecord(
            id=str(number), at_us=number, principal="ci", verb="CancelInstance", criteria="töne", count=1
        )
