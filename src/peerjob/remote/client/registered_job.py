"""A job as a node lists it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from peerjob.model.clock import to_datetime
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.requests import FOREVER
from peerjob.remote.wire.values import span_us, stamp_us


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


def job_of(message: pb.Job) -> RegisteredJob:
    """The job in a message."""
    return RegisteredJob(
        kind=message.kind,
        description=message.description,
        registered_at=to_datetime(stamp_us(message.registered_at)) if message.HasField("registered_at") else None,
        priority=message.priority,
        max_retries=None if message.max_retries == FOREVER else message.max_retries,
        timeout=timedelta(microseconds=span_us(message.timeout)) if message.HasField("timeout") else None,
        cron=message.cron_spec if message.HasField("cron_spec") else None,
        every=timedelta(microseconds=span_us(message.every)) if message.HasField("every") else None,
        timezone=message.timezone if message.HasField("timezone") else None,
        schedule_at=message.schedule_at if message.HasField("schedule_at") else None,
        tags=tuple(message.tags),
        aliases=tuple(message.aliases),
        version=message.version,
        runs_here=message.runs_here,
        signature=message.signature,
        nodes=tuple(message.nodes),
        node_count=message.node_count,
        json_schema=message.json_schema if message.HasField("json_schema") else None,
    )
