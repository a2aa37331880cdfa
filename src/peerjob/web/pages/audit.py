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
    found = [one for one in records if verb in ("", one.verb) and _matches(one, text)]
    begin = visit.offset(len(found), PAGE)
    return Shown(
        "audit.html",
        rows=found[begin : begin + PAGE],
        total=len(found),
        everything=len(records),
        begin=begin,
        page=PAGE,
        verbs=sorted({one.verb for one in records}),
    )


def _matches(record: AuditRecord, text: str) -> bool:
    fields = (record.principal, record.address, record.verb, record.criteria, record.result, record.node)
    return any(text in one.casefold() for one in fields)


ROUTES = (page("/audit", audit, title="Audit", role=Role.ADMIN),)
