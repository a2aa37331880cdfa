"""`jobctl why`: why an instance does not run, or a schedule does not fire."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from peerjob.handles.observing import explain_schedule, observe
from peerjob.handles.reasons import why_instance

from .commands import ClientSession, verb


def add_to(app: typer.Typer) -> None:
    """Add this verb to jobctl."""
    verb(app, "why")(why)


async def why(
    session: ClientSession,
    what: Annotated[
        str, typer.Argument(metavar="UUID|NAME", help="An instance, or the name of a schedule.", show_default=False)
    ],
) -> None:
    """Explain why an instance does not run, or why a schedule does not fire."""
    async with session.client() as client:
        if not _is_id(what):
            schedule = await client.lookup_schedule(what)
            reasons = await explain_schedule(client, schedule, session.now)
            _show(session, f"schedule {schedule.name} of {schedule.kind}", reasons)
            return
        instance = await client.lookup_instance(what)
        reasons = why_instance(await observe(client, instance, session.now))
        traceback = "" if instance.error is None else instance.error.traceback
        _show(session, f"{instance.id} of {instance.kind}: {instance.state!s}", reasons, traceback)


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _show(session: ClientSession, subject: str, reasons: list[str], traceback: str = "") -> None:
    text = "\n".join([subject, *(f"  {reason}" for reason in reasons)])
    if traceback:
        text += f"\n\n{traceback.rstrip()}"
    session.out.text(text, {"subject": subject, "reasons": reasons, "traceback": traceback or None})
