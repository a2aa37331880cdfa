"""Makes of an operation the call of the catalogue, the audit log or the activity, and filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from peerjob.model.activity_sample import ActivityRow, ActivitySample
from peerjob.model.audit import AuditRecord
from peerjob.model.clock import to_datetime
from peerjob.model.published import KindDescriptor
from peerjob.model.query import Filter

from .known import Known, Made

SLOT_US = 10_000_000

Given = Mapping[str, Any]


class QueryCalls:
    """The calls that concern no single instance."""

    _known: Known

    def filter(self, given: Given) -> Filter:
        """The filter of an operation; its times are ages in seconds at the start of the program."""
        start_us = self._known.ids.start_us

        def moment(name: str) -> Any:
            return to_datetime(start_us - round(given[name] * 1_000_000)) if name in given else None

        return Filter(before=moment("before"), after=moment("after"), older_than=given.get("older_than"))

    def _publish_kinds(self, request: str, given: Given) -> Made:
        kinds = cast("list[str]", given["kinds"])
        return Made("publish_kinds", lambda side: side.store.publish_kinds(kinds))

    def _publish_descriptors(self, request: str, given: Given) -> Made:
        descriptors = [
            KindDescriptor(
                kind=one["kind"],
                digest=f"digest {one['version']}".encode(),
                body=f"body {one['version']}".encode(),
                schema=b"{}" if one.get("schema") else b"",
            )
            for one in cast("list[Given]", given["descriptors"])
        ]
        return Made("publish_descriptors", lambda side: side.store.publish_descriptors(descriptors))

    def _add_audit(self, request: str, given: Given) -> Made:
        records = [
            AuditRecord(id=f"{request}/{number}", at_us=number + 1, principal="p", verb=verb, count=number or None)
            for number, verb in enumerate(cast("list[str]", given["verbs"]))
        ]
        return Made("add_audit", lambda side: side.store.add_audit(records), once=True)

    def _add_activity(self, request: str, given: Given) -> Made:
        slot = self._known.ids.start_us // SLOT_US + given["slot"]
        rows = {kind: _row(numbers) for kind, numbers in cast("dict[str, list[int]]", given["rows"]).items()}
        sample = ActivitySample(slot, rows)
        return Made("add_activity", lambda side: side.store.add_activity(sample), once=True)


def _row(numbers: list[int]) -> ActivityRow:
    started, completed, failed, retried, cancelled = numbers
    return ActivityRow(started, completed, failed, retried, cancelled, durations=(started,), waits=(0, 1))
