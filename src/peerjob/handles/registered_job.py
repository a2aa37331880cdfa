"""A job as a node lists it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class RegisteredJob:
    """A job that live nodes run, or that the node that answers has registered."""

    kind: str
    description: str
    registered_at: datetime | None
    """The time of the registration, by the clock of the node that answers; None for a job of other nodes."""
    priority: int
    max_retries: int | None
    """None means no limit."""
    timeout: timedelta | None
    cron: str | None
    every: timedelta | None
    timezone: str | None
    schedule_at: str | None
    tags: tuple[str, ...]
    aliases: tuple[str, ...]
    version: int
    runs_here: bool
    """Whether the node that answers can run the job; False for a job of other nodes, and for a handle."""
    signature: str = ""
    """The parameters of the caller and the result, as text; "" if no live node describes the job."""
    nodes: tuple[str, ...] = ()
    """The names of up to 20 live nodes that run the job."""
    node_count: int = 0
    """The number of live nodes that run the job."""
    json_schema: str | None = None
    """The JSON schema of all arguments by name, if it was asked for."""
