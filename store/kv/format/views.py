"""Records and claims, as the callers of the store see them."""

from __future__ import annotations

from peerjob.model.record import Claim, Record

from .rows import Out, Row
from .thread_rows import shown_wait, thread_of

_NOTHING = Out()


def to_record(id: str, row: Row, spec: bytes, out: Out | None, progress: bytes | None) -> Record:
    """A record as readers see it; `out` comes from the separate key."""
    out, thread = out or row.out or _NOTHING, thread_of(row)
    return Record(
        id=id,
        kind=row.kind,
        state=row.state,
        spec=spec,
        priority=row.priority,
        due_us=row.due_us,
        attempts=row.attempts,
        crashes=row.crashes,
        losses=row.losses,
        fence=row.fence,
        owner="" if row.releasing else row.owner,
        history=row.history,
        result=out.result,
        error=out.error,
        progress=progress,
        key=row.key,
        tags=row.tags,
        slot=row.slot if row.keeps else "",
        retention_us=row.retention_us,
        max_crashes=row.max_crashes,
        parent="" if thread is None else thread.parent,
        wait=None if thread is None else shown_wait(row),
        open=thread is not None and thread.open and not row.final,
        has_steps=thread is not None and thread.has_values,
        has_children=thread is not None and thread.children,
    )


def to_claim(id: str, row: Row, spec: bytes) -> Claim:
    """A claim as its new owner sees it."""
    thread = thread_of(row)
    return Claim(
        id=id,
        kind=row.kind,
        fence=row.fence,
        spec=spec,
        priority=row.priority,
        due_us=row.due_us,
        attempts=row.attempts,
        crashes=row.crashes,
        losses=row.losses,
        at_us=row.history[-1].at_us,
        key=row.key,
        tags=row.tags,
        parent="" if thread is None else thread.parent,
        linked=thread is not None and (thread.parent != "" or thread.children or thread.has_values),
        has_steps=thread is not None and thread.has_values,
    )
