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
            Column(title="UUID", text=lambda one: one.id, whole=True),
            Column(title="KIND", text=lambda one: one.kind),
            Column(title="STATE", text=lambda one: str(one.state)),
            Column(title="AGE", text=lambda one: age(one.created_at, now), right=True),
            Column(title="NODE", text=lambda one: one.node or "-"),
            Column(title="TRIES", text=lambda one: str(one.attempts), wide=True, right=True),
            Column(title="PRIORITY", text=lambda one: str(one.priority), wide=True, right=True),
            Column(title="DUE", text=lambda one: moment(one.due_at), wide=True),
            Column(title="TAGS", text=lambda one: ",".join(one.tags) or "-", wide=True),
            Column(title="ARGUMENTS", text=_arguments, wide=True),
            Column(title="ERROR", text=lambda one: "-" if one.error is None else str(one.error), wide=True),
        ),
        name=lambda one: one.id,
        plain=lambda one: one.to_dict(),
        nothing="no instance matches",
    )


def _arguments(one: Instance[Any]) -> str:
    try:
        return to_json(one.arguments)
    except DecodeError:
        return "(unreadable)"


def _nodes_of(job: RegisteredJob) -> str:
    more = job.node_count - 3
    return (",".join(job.nodes[:3]) + (f" and {more} more" if more > 0 else "")) or "none"


JOBS: TableView[RegisteredJob] = TableView(
    columns=(
        Column(title="KIND", text=lambda one: one.kind),
        Column(title="RECURS", text=lambda one: recurrence_text(one.cron, one.every, one.timezone)),
        Column(title="SIGNATURE", text=lambda one: one.signature or "-"),
        Column(title="NODES", text=_nodes_of),
        Column(title="DESCRIPTION", text=lambda one: one.description or "-"),
        Column(title="PRIORITY", text=lambda one: str(one.priority), wide=True, right=True),
        Column(
            title="RETRIES",
            text=lambda one: "forever" if one.max_retries is None else str(one.max_retries),
            wide=True,
            right=True,
        ),
        Column(title="TIMEOUT", text=lambda one: "-" if one.timeout is None else span(one.timeout), wide=True),
        Column(title="RUNS", text=lambda one: "here" if one.runs_here else "elsewhere", wide=True),
        Column(title="REGISTERED", text=lambda one: moment(one.registered_at), wide=True),
        Column(title="VERSION", text=lambda one: str(one.version), wide=True, right=True),
    ),
    name=lambda one: one.kind,
    plain=lambda one: {
        "kind": one.kind,
        "description": one.description,
        "signature": one.signature or None,
        "nodes": list(one.nodes),
        "node_count": one.node_count,
        "registered_at": None if one.registered_at is None else one.registered_at.isoformat(),
        "priority": one.priority,
        "max_retries": one.max_retries,
        "timeout": None if one.timeout is None else one.timeout.total_seconds(),
        "crontab": one.cron,
        "every": None if one.every is None else one.every.total_seconds(),
        "timezone": one.timezone,
        "schedule_at": one.schedule_at,
        "tags": list(one.tags),
        "aliases": list(one.aliases),
        "version": one.version,
        "runs_here": one.runs_here,
        "json_schema": None if one.json_schema is None else json.loads(one.json_schema),
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
        Column(title="NODE", text=lambda one: one.name),
        Column(title="INTAKE", text=lambda one: one.intake or "-"),
        Column(title="RUNNING", text=lambda one: str(one.running), right=True),
        Column(title="WORKERS", text=lambda one: str(one.info.workers), right=True),
        Column(title="HEARD", text=lambda one: f"{one.heartbeat_age:.1f}s ago"),
        Column(title="HOST", text=lambda one: one.info.host or "-"),
        Column(title="PID", text=lambda one: str(one.info.pid or "-"), right=True),
        Column(title="VERSION", text=lambda one: one.info.version or "-"),
        Column(title="STARTED", text=lambda one: moment(one.started_at), wide=True),
        Column(title="INCARNATION", text=lambda one: one.info.incarnation, wide=True),
        Column(title="KINDS", text=lambda one: ",".join(one.info.kinds) or "-", wide=True),
    ),
    name=lambda one: one.name,
    plain=lambda one: {
        "name": one.name,
        "incarnation": one.info.incarnation,
        "intake": one.intake or None,
        "running": one.running,
        "workers": one.info.workers,
        "heartbeat_age": one.heartbeat_age,
        "host": one.info.host,
        "pid": one.info.pid,
        "version": one.info.version,
        "started_at": one.started_at.isoformat(),
        "kinds": list(one.info.kinds),
    },
    nothing="no live node",
)


def schedules(now: datetime) -> TableView[Schedule]:
    """The table of schedules, with ages as of now."""
    return TableView(
        columns=(
            Column(title="NAME", text=lambda one: one.name),
            Column(title="KIND", text=lambda one: one.kind),
            Column(title="RECURS", text=_recurs),
            Column(title="NEXT", text=lambda one: "paused" if one.paused else until(one.next_at, now), right=True),
            Column(title="LAST", text=lambda one: age(one.last_at, now), right=True),
            Column(title="RUNNING", text=lambda one: one.running or "-", wide=True),
            Column(title="WAITING", text=lambda one: str(len(one.waiting)), wide=True, right=True),
            Column(title="NEXT AT", text=lambda one: moment(one.next_at), wide=True),
            Column(title="NOTE", text=lambda one: one.note or "-", wide=True),
        ),
        name=lambda one: one.name,
        plain=lambda one: one.to_dict(),
        nothing="no schedule",
    )


def _recurs(one: Schedule) -> str:
    try:
        return recurrence_text(one.cron, one.every, one.timezone)
    except DecodeError:
        return "(unreadable)"


FIRES: TableView[FireEntry] = TableView(
    columns=(
        Column(title="NOMINAL", text=lambda one: moment(one.nominal), whole=True),
        # the number of nominal times; with this title, a row of one fire fits into 80 columns
        Column(title="N", text=lambda one: str(one.count), right=True),
        Column(title="OUTCOME", text=lambda one: f"{one.outcome}{' (ongoing)' if one.ongoing else ''}"),
        Column(title="INSTANCE", text=lambda one: one.instance_id or "-", whole=True),
        Column(title="LATE", text=lambda one: span(one.late), wide=True, right=True),
        Column(title="NODE", text=lambda one: one.node or "-", wide=True),
        Column(title="TERM", text=lambda one: str(one.term or "-"), wide=True, right=True),
        Column(title="WHY", text=lambda one: one.reason or "-"),
    ),
    name=lambda one: one.instance_id or one.nominal.isoformat(),
    plain=lambda one: one.to_dict(),
    nothing="nothing has become due yet",
)


def json_text(value: Any) -> str:
    """A value as JSON on one line."""
    return json.dumps(json.loads(to_json(value)), ensure_ascii=False)
