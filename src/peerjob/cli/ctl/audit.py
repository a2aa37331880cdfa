"""`jobctl audit`: the latest acting calls over gRPC."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import structs

from peerjob.model.ages import moment
from peerjob.model.audit import MAX_AUDIT, AuditRecord

from .commands import ClientSession, verb
from .output import Column, Format, TableView, note

AUDIT: TableView[AuditRecord] = TableView(
    columns=(
        Column(title="TIME", text=lambda one: moment(one.at), whole=True),
        Column(title="PRINCIPAL", text=lambda one: one.principal),
        Column(title="VERB", text=lambda one: one.verb),
        Column(title="CRITERIA", text=lambda one: one.criteria or "-"),
        Column(title="COUNT", text=lambda one: "-" if one.count is None else str(one.count), right=True),
        Column(title="RESULT", text=lambda one: one.result),
        Column(title="CALLS", text=lambda one: str(one.calls), wide=True, right=True),
        Column(title="ADDRESS", text=lambda one: one.address or "-", wide=True),
        Column(title="NODE", text=lambda one: one.node, wide=True),
    ),
    name=lambda one: one.id,
    plain=lambda one: {"time": one.at.isoformat(), **_without_time(one)},
    nothing="no acting call is recorded",
    alert=lambda one: one.result != "ok",
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
        found = await client.audit(limit)
    session.out.many(found, AUDIT)
    if len(found) == limit < MAX_AUDIT and session.out.format in (Format.TABLE, Format.WIDE):
        note(f"there may be more than these {len(found)}; --limit shows up to {MAX_AUDIT:,}")


def _without_time(record: AuditRecord) -> dict[str, object]:
    return {name: value for name, value in structs.asdict(record).items() if name != "at_us"}
