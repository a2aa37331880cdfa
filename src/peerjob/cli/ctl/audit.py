"""`jobctl audit`: the latest acting calls over gRPC."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import structs

from peerjob.model.ages import moment
from peerjob.model.audit import MAX_AUDIT, AuditRecord

from .commands import ClientSession, verb
from .output import Column, Format, TableView, to_stderr

AUDIT: TableView[AuditRecord] = TableView(
    columns=(
        Column(title="TIME", text=lambda record: moment(record.at), whole=True),
        Column(title="PRINCIPAL", text=lambda record: record.principal),
        Column(title="VERB", text=lambda record: record.verb),
        Column(title="CRITERIA", text=lambda record: record.criteria or "-"),
        Column(title="COUNT", text=lambda record: "-" if record.count is None else str(record.count), right=True),
        Column(title="RESULT", text=lambda record: record.result),
        Column(title="CALLS", text=lambda record: str(record.calls), wide=True, right=True),
        Column(title="ADDRESS", text=lambda record: record.address or "-", wide=True),
        Column(title="NODE", text=lambda record: record.node, wide=True),
    ),
    name=lambda record: record.id,
    plain=lambda record: {"time": record.at.isoformat(), **_without_time(record)},
    nothing="no acting call is recorded",
    alert=lambda record: record.result != "ok",
)


def add_to(app: typer.Typer) -> None:
    """Add this verb."""
    verb(app, "audit")(audit)


async def audit(
    session: ClientSession,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MAX_AUDIT, metavar="N", help="The most records.")
    ] = 100,
) -> None:
    """List the latest acting calls over gRPC, the latest first: which caller did what. Needs the role admin."""
    async with session.client() as client:
        records = await client.audit(limit)
    session.out.many(records, AUDIT)
    if len(records) == limit < MAX_AUDIT and session.out.format in (Format.TABLE, Format.WIDE):
        to_stderr(f"there may be more than these {len(records)}; --limit shows up to {MAX_AUDIT:,}")


def _without_time(record: AuditRecord) -> dict[str, object]:
    return {name: value for name, value in structs.asdict(record).items() if name != "at_us"}
