"""A job as the node that answers lists it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from peerjob.model.clock import to_datetime
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.requests import FOREVER
from peerjob.remote.wire.values import span_us, stamp_us


@dataclass(frozen=True, kw_only=True)
class RegisteredJob:
    """A job that a node has registered."""

    kind: str
    description: str
    registered_at: datetime
    """The time of the registration, by the clock of the node."""
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
    """Whether the node can run the job; False if the node registered only a handle, without a function."""


def job_of(message: pb.Job) -> RegisteredJob:
    """The job in a message."""
    return RegisteredJob(
        kind=message.kind,
        description=message.description,
        registered_at=to_datetime(stamp_us(message.registered_at)),
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
    )
