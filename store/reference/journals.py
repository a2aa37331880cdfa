"""The audit log, and the samples of activity."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.activity_sample import ActivitySample
from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.record import check_batch
from peerjob.store.activity import encode_sample, limited, merged, position_of, samples_in

from .transaction import ReferenceTransaction


def add_audit(transaction: ReferenceTransaction, records: Sequence[AuditRecord]) -> None:
    """Append records; the log keeps the last MAX_AUDIT of them."""
    check_batch(len(records))
    transaction.state.audit = [*transaction.state.audit, *records][-MAX_AUDIT:]


def audit(transaction: ReferenceTransaction, limit: int = MAX_AUDIT) -> list[AuditRecord]:
    """The latest records, the latest first."""
    return transaction.state.audit[::-1][:limit]


def add_activity(transaction: ReferenceTransaction, sample: ActivitySample) -> None:
    """Add counts to those of the same slot. A sample of another slot replaces the earlier one."""
    position = position_of(sample.slot)
    transaction.state.activity[position] = encode_sample(
        merged(transaction.state.activity.get(position), limited(sample))
    )


def activity(transaction: ReferenceTransaction, first: int, last: int) -> list[ActivitySample]:
    """The samples of the slots from `first` to `last`."""
    return sorted(samples_in(transaction.state.activity.values(), first, last), key=lambda sample: sample.slot)
