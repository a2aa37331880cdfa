"""Registered jobs, on the wire."""

from __future__ import annotations

from datetime import timedelta

from peerjob.handles.registered_job import RegisteredJob
from peerjob.model.clock import to_datetime, to_us
from peerjob.proto.job.v1 import service_pb2 as pb

from .requests import FOREVER
from .values import span, span_us, stamp, stamp_us

MICROSECOND = timedelta(microseconds=1)


def job_message(job: RegisteredJob) -> pb.Job:
    """The message of a job."""
    return pb.Job(
        kind=job.kind,
        description=job.description,
        registered_at=None if job.registered_at is None else stamp(to_us(job.registered_at)),
        cron_spec=job.cron,
        schedule_at=job.schedule_at,
        priority=job.priority,
        max_retries=FOREVER if job.max_retries is None else job.max_retries,
        timeout=None if job.timeout is None else span(job.timeout // MICROSECOND),
        tags=job.tags,
        aliases=job.aliases,
        version=job.version,
        every=None if job.every is None else span(job.every // MICROSECOND),
        timezone=job.timezone,
        runs_here=job.runs_here,
        signature=job.signature,
        nodes=job.nodes,
        node_count=job.node_count,
        json_schema=job.json_schema,
    )


def job_of(message: pb.Job) -> RegisteredJob:
    """The inverse of `job_message`."""
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
