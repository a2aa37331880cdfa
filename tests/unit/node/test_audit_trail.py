"""The audit trail of a node whose store is away."""

from collections.abc import Sequence

import pytest

from peerjob.model.audit import DENIED, MAX_AUDIT, AuditRecord
from peerjob.model.errors import StoreUnavailableError
from peerjob.node.manager.audit_trail import AuditTrail
from peerjob.testing import VirtualClock
from support.records import logged


class Log:
    """A node whose store can be away."""

    name = "a"
    running = False

    def __init__(self) -> None:
        self.away = True
        self.stored: list[AuditRecord] = []

    async def add_audit(self, records: Sequence[AuditRecord], /) -> None:
        if self.away:
            raise StoreUnavailableError("memory://", "away")
        self.stored += records


async def test_a_store_that_is_away_costs_the_oldest_records_only(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    trail = AuditTrail(clock, log)
    for number in range(MAX_AUDIT + 5):
        trail.add("CancelInstance", "ci", "-", f"uuid={number}", 1, "ok")
        trail.add("CancelInstance", "ci", "-", f"uuid={number}", 1, DENIED)
    with pytest.raises(StoreUnavailableError):
        await trail.flush()
    log.away = False
    await trail.flush()
    assert [one.criteria for one in log.stored] == [f"uuid={number}" for number in range(5, MAX_AUDIT + 5)]
    (told,) = logged(caplog)
    assert told.getMessage().startswith("5 record(s) did not get into the store")


async def test_calls_of_different_callers_share_no_record(clock: VirtualClock) -> None:
    log = Log()
    log.away = False
    trail = AuditTrail(clock, log)
    for principal, address in (("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")):
        trail.add("ScheduleJob", principal, address, "kind=mail", 1, "ok")
    await trail.flush()
    found = [(one.principal, one.address, one.count, one.calls) for one in log.stored]
    assert sorted(found) == [("a", "1", 2, 2), ("a", "2", 1, 1), ("b", "1", 1, 1)]
