"""The audit log: acting calls over gRPC and through this dashboard."""

from __future__ import annotations

from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.rights import Role
from peerjob.web.page import page
from peerjob.web.visit import Shown, Visit

PAGE = 100


async def audit(visit: Visit) -> Shown:
    """The latest records of the audit log, filtered by text and verb."""
    records = await visit.manager.audit(MAX_AUDIT)
    text, verb = visit.param("q").casefold(), visit.param("verb")
    matches = [record for record in records if verb in ("", record.verb) and _matches(record, text)]
    begin = visit.offset(len(matches), PAGE)
    return Shown(
        "audit.html",
        rows=matches[begin : begin + PAGE],
        total=len(matches),
        everything=len(records),
        begin=begin,
        page=PAGE,
        verbs=sorted({record.verb for record in records}),
    )


def _matches(record: AuditRecord, text: str) -> bool:
    fields = (record.principal, record.address, record.verb, record.criteria, record.result, record.node)
    return any(text in value.casefold() for value in fields)


ROUTES = (page("/audit", audit, title="Audit", role=Role.ADMIN),)
