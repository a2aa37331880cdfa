"""The audit log, and the samples of activity."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.activity_sample import ActivitySample
from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.record import check_batch
from peerjob.store.activity import encode_sample, limited, merged, place_of, samples_in

from .step import AtomicStep


def add_audit(step: AtomicStep, records: Sequence[AuditRecord]) -> None:
    """Append records; the log keeps the last MAX_AUDIT of them."""
    check_batch(len(records))
    step.state.audit = [*step.state.audit, *records][-MAX_AUDIT:]


def audit(step: AtomicStep, limit: int = MAX_AUDIT) -> list[AuditRecord]:
    """The latest records, the latest first."""
    return step.state.audit[::-1][:limit]


def add_activity(step: AtomicStep, sample: ActivitySample) -> None:
    """Add counts to those of the same slot. A sample of another slot takes the place of the earlier one."""
    place = place_of(sample.slot)
    step.state.activity[place] = encode_sample(merged(step.state.activity.get(place), limited(sample)))


def activity(step: AtomicStep, first: int, last: int) -> list[ActivitySample]:
    """The samples of the slots from `first` to `last`."""
    return sorted(samples_in(step.state.activity.values(), first, last), key=lambda sample: sample.slot)
