"""Decodes records of the audit log."""

from __future__ import annotations

from collections.abc import Iterable

from peerjob.model.audit import AuditRecord
from peerjob.model.errors import DecodeError
from peerjob.model.spec import reader

from .calls import LOGGER

_decode = reader(AuditRecord, "audit")


def audit_records(stored: Iterable[bytes]) -> list[AuditRecord]:
    """The records, without those that cannot be decoded."""
    records: list[AuditRecord] = []
    for data in stored:
        try:
            records.append(_decode(data))
        except DecodeError as error:
            # log no traceback: the message of a DecodeError already names the cause
            LOGGER.error("a record of the audit log is left out: %s", error)
    return records
