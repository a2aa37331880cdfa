"""The columns of instances, jobs, nodes, schedules and fires."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from peerjob.handles.instance import Instance
from peerjob.handles.registered_job import RegisteredJob
from peerjob.handles.schedule import FireEntry, Schedule
from peerjob.model.ages import age, moment, span, until
from peerjob.model.durations import format_seconds
from peerjob.model.errors import DecodeError
from peerjob.model.json_text import to_json
from peerjob.model.record import NodeView

from .output import Column, TableView


def instances(now: datetime) -> TableView[Instance[Any]]:
    """The table of instances, with ages as of now."""
    return TableView(
        columns=(
            Column(title="UUID", text=lambda instance: instance.id, whole=True),
            Column(title="KIND", text=lambda instance: instance.kind),
            Column(title="STATE", text=lambda instance: str(instance.state), whole=True),
            Column(title="AGE", text=lambda instance: age(instance.created_at, now), right=True),
            Column(title="NODE", text=lambda instance: instance.node or "-"),
            Column(title="TRIES", text=lambda instance: str(instance.attempts), wide=True, right=True),
            Column(title="PRIORITY", text=lambda instance: str(instance.priority), wide=True, right=True),
            Column(title="DUE", text=lambda instance: moment(instance.due_at), wide=True, whole=True),
            Column(title="TAGS", text=lambda instance: ",".join(instance.tags) or "-", wide=True),
            Column(title="ARGUMENTS", text=_arguments, wide=True),
            Column(
                title="ERROR", text=lambda instance: "-" if instance.error is None else str(instance.error), wide=True
            ),
        ),
        name=lambda instance: instance.id,
        plain=lambda instance: instance.to_dict(),
        nothing="no instance matches",
    )


def _arguments(instance: Instance[Any]) -> str:
    try:
        return to_json(instance.arguments)
    except DecodeError:
        return "(unreadable)"


def _nodes_of(job: RegisteredJob) -> str:
    more = job.node_count - 3
    return (",".join(job.nodes[:3]) + (f" and {more} more" if more > 0 else "")) or "none"


JOBS: TableView[RegisteredJob] = TableView(
    columns=(
        Column(title="KIND", text=lambda job: job.kind),
        Column(title="RECURS", text=lambda job: recurrence_text(job.cron, job.every, job.timezone)),
        Column(title="SIGNATURE", text=lambda job: job.signature or "-"),
        Column(title="NODES", text=_nodes_of),
        Column(title="DESCRIPTION", text=lambda job: job.description or "-"),
        Column(title="PRIORITY", text=lambda job: str(job.priority), wide=True, right=True),
        Column(
            title="RETRIES",
            text=lambda job: "forever" if job.max_retries is None else str(job.max_retries),
            wide=True,
            right=True,
        ),
        Column(title="TIMEOUT", text=lambda job: "-" if job.timeout is None else span(job.timeout), wide=True),
        Column(title="RUNS", text=lambda job: "here" if job.runs_here else "elsewhere", wide=True),
        Column(title="REGISTERED", text=lambda job: moment(job.registered_at), wide=True, whole=True),
        Column(title="VERSION", text=lambda job: str(job.version), wide=True, right=True),
    ),
    name=lambda job: job.kind,
    plain=lambda job: {
        "kind": job.kind,
        "description": job.description,
        "signature": job.signature or None,
        "nodes": list(job.nodes),
        "node_count": job.node_count,
        "registered_at": None if job.registered_at is None else job.registered_at.isoformat(),
        "priority": job.priority,
        "max_retries": job.max_retries,
        "timeout": None if job.timeout is None else job.timeout.total_seconds(),
        "crontab": job.cron,
        "every": None if job.every is None else job.every.total_seconds(),
        "timezone": job.timezone,
        "schedule_at": job.schedule_at,
        "tags": list(job.tags),
        "aliases": list(job.aliases),
        "version": job.version,
        "runs_here": job.runs_here,
        "json_schema": None if job.json_schema is None else json.loads(job.json_schema),
    },
    nothing="no live node has jobs",
)


def recurrence_text(cron: str | None, every: timedelta | None, timezone: str | None) -> str:
    """A recurrence in short."""
    if cron is not None:
        return cron if timezone in (None, "UTC") else f"{cron} ({timezone})"
    return "-" if every is None else f"every {format_seconds(every.total_seconds())}"


NODES: TableView[NodeView] = TableView(
    columns=(
        Column(title="NODE", text=lambda node: node.name),
        Column(title="INTAKE", text=lambda node: node.intake or "-"),
        Column(title="RUNNING", text=lambda node: str(node.running), right=True),
        Column(title="WORKERS", text=lambda node: str(node.info.workers), right=True),
        Column(title="HEARD", text=lambda node: f"{node.heartbeat_age:.1f}s ago"),
        Column(title="HOST", text=lambda node: node.info.host or "-"),
        Column(title="PID", text=lambda node: str(node.info.pid or "-"), right=True),
        Column(title="VERSION", text=lambda node: node.info.version or "-"),
        Column(title="STARTED", text=lambda node: moment(node.started_at), wide=True, whole=True),
        Column(title="INCARNATION", text=lambda node: node.info.incarnation, wide=True, whole=True),
        Column(title="KINDS", text=lambda node: ",".join(node.info.kinds) or "-", wide=True),
    ),
    name=lambda node: node.name,
    plain=lambda node: {
        "name": node.name,
        "incarnation": node.info.incarnation,
        "intake": node.intake or None,
        "running": node.running,
        "workers": node.info.workers,
        "heartbeat_age": node.heartbeat_age,
        "host": node.info.host,
        "pid": node.info.pid,
        "version": node.info.version,
        "started_at": node.started_at.isoformat(),
        "kinds": list(node.info.kinds),
    },
    nothing="no live node",
)


def schedules(now: datetime) -> TableView[Schedule]:
    """The table of schedules, with ages as of now."""
    return TableView(
        columns=(
            Column(title="NAME", text=lambda schedule: schedule.name),
            Column(title="KIND", text=lambda schedule: schedule.kind),
            Column(title="RECURS", text=_recurs),
            Column(
                title="NEXT",
                text=lambda schedule: "paused" if schedule.paused else until(schedule.next_at, now),
                right=True,
            ),
            Column(title="LAST", text=lambda schedule: age(schedule.last_at, now), right=True),
            Column(title="RUNNING", text=lambda schedule: schedule.running or "-", wide=True, whole=True),
            Column(title="WAITING", text=lambda schedule: str(len(schedule.waiting)), wide=True, right=True),
            Column(title="NEXT AT", text=lambda schedule: moment(schedule.next_at), wide=True, whole=True),
            Column(title="NOTE", text=lambda schedule: schedule.note or "-", wide=True),
        ),
        name=lambda schedule: schedule.name,
        plain=lambda schedule: schedule.to_dict(),
        nothing="no schedule",
    )


def _recurs(schedule: Schedule) -> str:
    try:
        return recurrence_text(schedule.cron, schedule.every, schedule.timezone)
    except DecodeError:
        return "(unreadable)"


FIRES: TableView[FireEntry] = TableView(
    columns=(
        Column(title="NOMINAL", text=lambda fire: moment(fire.nominal), whole=True),
        # the number of nominal times; with this title, a row of one fire fits into 80 columns
        Column(title="N", text=lambda fire: str(fire.count), right=True),
        Column(title="OUTCOME", text=lambda fire: f"{fire.outcome}{' (ongoing)' if fire.ongoing else ''}"),
        Column(title="INSTANCE", text=lambda fire: fire.instance_id or "-", whole=True),
        Column(title="LATE", text=lambda fire: span(fire.late), wide=True, right=True),
        Column(title="NODE", text=lambda fire: fire.node or "-", wide=True),
        Column(title="TERM", text=lambda fire: str(fire.term or "-"), wide=True, right=True),
        Column(title="WHY", text=lambda fire: fire.reason or "-"),
    ),
    name=lambda fire: fire.instance_id or fire.nominal.isoformat(),
    plain=lambda fire: fire.to_dict(),
    nothing="nothing has become due yet",
)


def json_text(value: Any) -> str:
    """A value as JSON on one line."""
    return json.dumps(json.loads(to_json(value)), ensure_ascii=False)
