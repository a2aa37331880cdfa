"""Each column of each table of jobctl, for a row with all that it can have, and for a row with nothing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from peerjob import Instance, RegisteredJob, Schedule, State, Worker
from peerjob.cli import ctl
from peerjob.cli.ctl import audit, cluster, events, limits, lookups, schedules, tables, top
from peerjob.cli.ctl.output import TableView
from peerjob.handles.entries import HistoryEntry
from peerjob.handles.schedule import Backfill, FireEntry
from peerjob.handles.stats import Stats
from peerjob.model.audit import AuditRecord
from peerjob.model.clock import to_us
from peerjob.model.codec import encode_call
from peerjob.model.definition import Definition, encode_definition
from peerjob.model.firing import FireOutcome, FireRecord, Leader, ScheduleRow, Term
from peerjob.model.record import NodeInfo, NodeView, Record, Transition
from peerjob.model.spec import ErrorInfo, Progress, Spec, encode
from peerjob.model.stored_limit import KeyLimitView, LimitView

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AT_US = to_us(AT)
SHOWN = "2026-01-02 03:04:05Z"

NODE = NodeInfo(
    name="ann",
    incarnation="i1",
    kinds=("one", "two"),
    workers=4,
    host="h1",
    pid=77,
    version="1.2",
    started_us=AT_US,
    intake="drained",
)
JOB = RegisteredJob(
    kind="mail",
    description="sends",
    registered_at=AT,
    priority=3,
    max_retries=5,
    timeout=timedelta(minutes=3),
    cron="5 4 * * *",
    every=None,
    timezone="Europe/Berlin",
    schedule_at=None,
    tags=(),
    aliases=(),
    version=7,
    runs_here=True,
    signature="()",
    nodes=("a", "b", "c", "d"),
    node_count=6,
)
BARE_JOB = replace(
    JOB,
    description="",
    registered_at=None,
    max_retries=None,
    timeout=None,
    cron=None,
    timezone=None,
    runs_here=False,
    signature="",
    nodes=(),
    node_count=0,
)
FIRE = FireRecord(
    nominal_us=AT_US,
    outcome=FireOutcome.SKIPPED,
    at_us=AT_US + 9_000_000,
    count=2,
    instance="id1",
    reason="old",
    node="ann",
    term=12,
)
COUNTS: dict[State, int] = {state: number for number, state in enumerate(cluster.COUNTED, 11)}
CHANGE = HistoryEntry("id1", "mail", Transition(State.PROCESSING, AT_US + 6_000, "ann", "retry 2", 3))
BARE_CHANGE = HistoryEntry("id1", "mail", Transition(State.COMPLETED, AT_US))

ROWS: dict[str, tuple[TableView[Any], Any, str]] = {
    "LEADERS": (
        cluster.LEADERS,
        Leader(incarnation="i1", name="ann", term=Term("c1", 7), since_us=AT_US),
        f"ann|7|{SHOWN}|c1|i1",
    ),
    "LEADERS bare": (cluster.LEADERS, Leader(incarnation="i1", name="ann", term=Term("c1", 7)), "ann|7|-|c1|i1"),
    "WORKERS": (cluster.WORKERS, Worker(number=3, node="ann", instance="id1", kind="mail"), "3|ann|id1|mail"),
    "WORKERS stuck": (
        cluster.WORKERS,
        Worker(number=3, node="ann", instance="id1", kind="mail", stuck=True),
        "3|ann|id1 (stuck)|mail",
    ),
    "WORKERS bare": (cluster.WORKERS, Worker(number=3, node="ann"), "3|ann|-|-"),
    "KINDS": (cluster.KINDS, ("mail", COUNTS, 9), "mail|11|12|13|14|15|16|9"),
    "KINDS bare": (cluster.KINDS, ("mail", {}, 0), "mail|0|0|0|0|0|0|0"),
    "top.KINDS": (
        top.KINDS,
        top.KindRow(kind="mail", counts=COUNTS, unserved=9, oldest=timedelta(seconds=5)),
        "mail|9|11|5s|12|15|16|14|13",
    ),
    "top.KINDS bare": (
        top.KINDS,
        top.KindRow(kind="mail", counts={}, unserved=0, oldest=None),
        "mail|0|0|-|0|0|0|0|0",
    ),
    "NODES": (
        tables.NODES,
        NodeView(info=NODE, running=2, age_us=1_500_000),
        f"ann|drained|2|4|1.5s ago|h1|77|1.2|{SHOWN}|i1|one,two",
    ),
    "NODES bare": (
        tables.NODES,
        NodeView(info=NodeInfo(name="ann", incarnation="i1", started_us=AT_US)),
        f"ann|-|0|0|0.0s ago|-|-|-|{SHOWN}|i1|-",
    ),
    "JOBS": (
        tables.JOBS,
        JOB,
        f"mail|5 4 * * * (Europe/Berlin)|()|a,b,c and 3 more|sends|3|5|3m|here|{SHOWN}|7",
    ),
    "JOBS of three nodes": (
        tables.JOBS,
        replace(JOB, nodes=("a", "b", "c"), node_count=3, timezone="UTC", max_retries=0),
        f"mail|5 4 * * *|()|a,b,c|sends|3|0|3m|here|{SHOWN}|7",
    ),
    "JOBS bare": (tables.JOBS, BARE_JOB, "mail|-|-|none|-|3|forever|-|elsewhere|-|7"),
    "FIRES": (
        tables.FIRES,
        FireEntry("daily", FIRE, ongoing=True),
        f"{SHOWN}|2|{FIRE.outcome} (ongoing)|id1|9s|ann|12|old",
    ),
    "FIRES bare": (
        tables.FIRES,
        FireEntry("daily", FireRecord(nominal_us=AT_US, outcome=FIRE.outcome)),
        f"{SHOWN}|1|{FIRE.outcome}|-|0s|-|-|-",
    ),
    "LIMITS": (
        limits.LIMITS,
        LimitView(
            name="api",
            kinds=("one", "two"),
            concurrency=5,
            period_us=600_000,
            burst=8,
            running=4,
            waiting=6,
            remaining=1,
            opens_us=AT_US,
            note="slow",
            source="setting",
        ),
        f"api|4|5|100/min|6|open|one,two|setting|8|{SHOWN}|slow",
    ),
    "LIMITS full": (
        limits.LIMITS,
        LimitView(name="api", concurrency=5, running=5, remaining=0),
        "api|5|5|-|0|full|-|code|-|-|-",
    ),
    "LIMITS closed": (
        limits.LIMITS,
        LimitView(name="api", concurrency=5, running=4, remaining=0),
        "api|4|5|-|0|closed|-|code|-|-|-",
    ),
    "LIMITS of keys": (
        limits.LIMITS,
        LimitView(kinds=("mail",), concurrency=5, running=7, remaining=0),
        "(mail)|7|5/key|-|0|open|mail|code|-|-|-",
    ),
    "LIMITS paused": (
        limits.LIMITS,
        LimitView(kinds=("mail",), running=7, paused=True),
        "(mail)|7|-|-|0|paused|mail|code|-|-|-",
    ),
    "KEYS": (limits.KEYS, KeyLimitView(key="k", concurrency=2, admitted=1, waiting=3), "k|1|2|3"),
    "KEYS bare": (limits.KEYS, KeyLimitView(key=""), "(without a key)|0|-|0"),
    "VERSIONS": (lookups.VERSIONS, {"jobctl": "1", "node": "2"}, "1|2"),
    "AUDIT": (
        audit.AUDIT,
        AuditRecord(
            id="r1",
            at_us=AT_US,
            principal="ops",
            address="::1",
            verb="Cancel",
            criteria="kind=mail",
            count=0,
            calls=2,
            result="denied",
            node="ann",
        ),
        f"{SHOWN}|ops|Cancel|kind=mail|0|denied|2|::1|ann",
    ),
    "AUDIT bare": (
        audit.AUDIT,
        AuditRecord(id="r1", at_us=AT_US, principal="ops", verb="Cancel"),
        f"{SHOWN}|ops|Cancel|-|-|ok|1|-|",
    ),
    "ENTRIES": (events.ENTRIES, CHANGE, "2026-01-02 03:04:05.006Z|Processing|3|ann|retry 2"),
    "ENTRIES bare": (events.ENTRIES, BARE_CHANGE, "2026-01-02 03:04:05.000Z|Completed|1|-|-"),
    "CHANGES": (events.CHANGES, CHANGE, f"id1|{SHOWN}|Processing|mail|3|ann|retry 2"),
    "BACKFILLS": (schedules.BACKFILLS, Backfill(times=10, made=1, known=2, trimmed=3, skipped=4), "10|1|2|3|4"),
}
"""A table, a row, and the texts of its cells."""


def texts(view: TableView[Any], row: Any) -> Sequence[str]:
    return [column.text(row) for column in view.columns]


@pytest.mark.parametrize("name", ROWS)
def test_each_column_shows_its_value(name: str) -> None:
    view, row, expected = ROWS[name]
    assert texts(view, row) == expected.split("|")


def test_each_table_has_a_row_here() -> None:
    modules = [importlib.import_module(f"{ctl.__name__}.{one.name}") for one in pkgutil.iter_modules(ctl.__path__)]
    views = {id(value) for module in modules for value in vars(module).values() if isinstance(value, TableView)}
    assert views == {id(view) for view, _, _ in ROWS.values()}


LAYOUTS = {
    "LEADERS": "LEADER|TERM>|SINCE=|COORDINATOR|INCARNATION+",
    "WORKERS": "WORKER>|NODE|RUNS=|KIND",
    "KINDS": "KIND|SCHEDULED>|PROCESSING>|CANCELLED>|TIMEDOUT>|COMPLETED>|TERMINATED>|UNSERVED>",
    "top.KINDS": "KIND|UNSERVED>|QUEUED>|OLDEST>|RUNNING>|COMPLETED>|TERMINATED>|TIMEDOUT>|CANCELLED>",
    "NODES": "NODE|INTAKE|RUNNING>|WORKERS>|HEARD|HOST|PID>|VERSION|STARTED+=|INCARNATION+=|KINDS+",
    "JOBS": "KIND|RECURS|SIGNATURE|NODES|DESCRIPTION|PRIORITY>+|RETRIES>+|TIMEOUT+|RUNS+|REGISTERED+=|VERSION>+",
    "FIRES": "NOMINAL=|N>|OUTCOME|INSTANCE=|LATE>+|NODE+|TERM>+|WHY",
    "LIMITS": "LIMIT=|RUNNING>|OF>|RATE|WAITING>|STATE=|KINDS|SOURCE+|BURST>+|OPENS+=|NOTE+",
    "KEYS": "KEY=|ADMITTED>|OF>|WAITING>",
    "VERSIONS": "JOBCTL|NODE",
    "AUDIT": "TIME=|PRINCIPAL|VERB|CRITERIA|COUNT>|RESULT|CALLS>+|ADDRESS+|NODE+",
    "ENTRIES": "TIME=|STATE=|TIMES>+|NODE|NOTE",
    "CHANGES": "UUID=|TIME=|STATE=|KIND|TIMES>+|NODE|NOTE",
    "BACKFILLS": "TIMES>|MADE>|KNOWN>|TRIMMED>|SKIPPED>",
    "instances": "UUID=|KIND|STATE=|AGE>|NODE|TRIES>+|PRIORITY>+|DUE+=|TAGS+|ARGUMENTS+|ERROR+",
    "schedules": "NAME|KIND|RECURS|NEXT>|LAST>|RUNNING+=|WAITING>+|NEXT AT+=|NOTE+",
}
"""The columns of each table: > has its cells at the right, + is only in the wide format, = is cut after the others."""


def layout(view: TableView[Any]) -> str:
    marks = [(">" * one.right) + ("+" * one.wide) + ("=" * one.whole) for one in view.columns]
    return "|".join(f"{one.title}{mark}" for one, mark in zip(view.columns, marks, strict=True))


def test_the_place_of_each_column() -> None:
    views = {name: view for name, (view, _, _) in ROWS.items() if not name.partition(" ")[2]}
    views |= {"instances": tables.instances(AT), "schedules": tables.schedules(AT)}
    assert {name: layout(view) for name, view in views.items()} == LAYOUTS


ALERTS = {
    "top.KINDS": True,
    "top.KINDS bare": False,
    "LIMITS": False,
    "LIMITS paused": True,
    "AUDIT": True,
    "AUDIT bare": False,
}


def test_rows_that_need_attention_are_red() -> None:
    found = {
        name: view.alert(row) for name, (view, row, _) in ROWS.items() if view.alert is not None and name in ALERTS
    }
    assert found == ALERTS


NAMES = {
    "LEADERS": "ann",
    "WORKERS": "3",
    "KINDS": "mail",
    "top.KINDS": "mail",
    "NODES": "ann",
    "JOBS": "mail",
    "FIRES": "id1",
    "FIRES bare": AT.isoformat(),
    "LIMITS": "api",
    "LIMITS paused": "mail",
    "KEYS": "k",
    "VERSIONS": "2",
    "AUDIT": "r1",
    "ENTRIES": "Processing",
    "CHANGES": "id1",
    "BACKFILLS": "1",
}
"""What `-o name` prints."""


def test_the_name_of_each_row() -> None:
    assert {name: ROWS[name][0].name(ROWS[name][1]) for name in NAMES} == NAMES


PLAIN: dict[str, dict[str, Any]] = {
    "LEADERS": {"name": "ann", "incarnation": "i1", "term": 7, "coordinator": "c1", "since": AT.isoformat()},
    "LEADERS bare": {"name": "ann", "incarnation": "i1", "term": 7, "coordinator": "c1", "since": None},
    "NODES": {
        "name": "ann",
        "incarnation": "i1",
        "intake": "drained",
        "running": 2,
        "workers": 4,
        "heartbeat_age": 1.5,
        "host": "h1",
        "pid": 77,
        "version": "1.2",
        "started_at": AT.isoformat(),
        "kinds": ["one", "two"],
    },
    "JOBS": {
        "kind": "mail",
        "description": "sends",
        "signature": "()",
        "nodes": ["a", "b", "c", "d"],
        "node_count": 6,
        "registered_at": AT.isoformat(),
        "priority": 3,
        "max_retries": 5,
        "timeout": 180.0,
        "crontab": "5 4 * * *",
        "every": None,
        "timezone": "Europe/Berlin",
        "schedule_at": None,
        "tags": [],
        "aliases": [],
        "version": 7,
        "runs_here": True,
        "json_schema": None,
    },
    "LIMITS": {
        "name": "api",
        "kinds": ["one", "two"],
        "concurrency": 5,
        "rate": "100/min",
        "burst": 8,
        "running": 4,
        "waiting": 6,
        "remaining": 1,
        "opens_at": AT.isoformat(),
        "state": "open",
        "paused": False,
        "note": "slow",
        "source": "setting",
    },
    "KEYS": {"key": "k", "concurrency": 2, "admitted": 1, "waiting": 3},
    "KEYS bare": {"key": None, "concurrency": None, "admitted": 0, "waiting": 0},
    "BACKFILLS": {"times": 10, "made": 1, "known": 2, "trimmed": 3, "skipped": 4},
}


@pytest.mark.parametrize("name", PLAIN)
def test_json_has_each_value(name: str) -> None:
    view, row, _ = ROWS[name]
    assert view.plain(row) == PLAIN[name]


CREATED = f"{AT_US // 1000 - 9_000:012x}"
RECORD = Record(
    id=f"{CREATED[:8]}-{CREATED[8:]}-7000-8000-000000000001",
    kind="mail",
    state=State.TERMINATED,
    spec=encode(Spec(encode_call(("ann",), {"n": 2}))),
    priority=4,
    due_us=AT_US,
    attempts=3,
    crashes=0,
    losses=0,
    fence=0,
    owner="",
    history=(Transition(State.PROCESSING, AT_US, "ann"),),
    error=encode(ErrorInfo("OSError", "no route")),
    progress=encode(Progress(0.25, "half")),
    tags=("a", "b"),
)
BARE_RECORD = structs.replace(
    RECORD, history=(), error=None, progress=None, tags=(), spec=encode(Spec(encode_call((), {})))
)
SCHEDULE = ScheduleRow(
    name="daily",
    kind="mail",
    definition=encode_definition(Definition(kind="mail", spec=b"", cron="0 4 * * *", timezone="Europe/Berlin")),
    revision=1,
    next_us=AT_US + 60_000_000,
    last_us=AT_US - 30_000_000,
    note="the server moves",
    holder="id1",
    parked=("id2", "id3"),
)
BARE_SCHEDULE = structs.replace(SCHEDULE, definition=b"", next_us=None, last_us=0, note="", holder="", parked=())
AGING: dict[str, tuple[TableView[Any], Any, str]] = {
    "instances": (
        tables.instances(AT),
        Instance(None, RECORD),
        f'{RECORD.id}|mail|Terminated|9s|ann|3|4|{SHOWN}|a,b|["ann",2]|OSError: no route',
    ),
    "instances bare": (
        tables.instances(AT),
        Instance(None, BARE_RECORD),
        f"{RECORD.id}|mail|Terminated|9s|-|3|4|{SHOWN}|-|[]|-",
    ),
    "instances unreadable": (
        tables.instances(AT),
        Instance(None, structs.replace(RECORD, spec=b"")),
        f"{RECORD.id}|mail|Terminated|9s|ann|3|4|{SHOWN}|a,b|(unreadable)|OSError: no route",
    ),
    "schedules": (
        tables.schedules(AT),
        Schedule(None, SCHEDULE),
        "daily|mail|0 4 * * * (Europe/Berlin)|in 60s|30s|id1|2|2026-01-02 03:05:05Z|the server moves",
    ),
    "schedules paused": (
        tables.schedules(AT),
        Schedule(None, structs.replace(SCHEDULE, paused=True)),
        "daily|mail|0 4 * * * (Europe/Berlin)|paused|30s|id1|2|2026-01-02 03:05:05Z|the server moves",
    ),
    "schedules bare": (tables.schedules(AT), Schedule(None, BARE_SCHEDULE), "daily|mail|(unreadable)|-|-|-|0|-|-"),
}
"""A table with ages, a row, and the texts of its cells."""


@pytest.mark.parametrize("name", AGING)
def test_each_column_of_a_table_with_ages_shows_its_value(name: str) -> None:
    view, row, expected = AGING[name]
    assert texts(view, row) == expected.split("|")


def test_rows_of_all_kinds_are_counted_together() -> None:
    stats = Stats(counts={"b": {State.SCHEDULED: 2}, "a": {State.SCHEDULED: 1}, "none": {}}, unserved={"b": 2})
    assert [texts(cluster.KINDS, row) for row in cluster.tallies(stats)] == [
        ["a", "1", "0", "0", "0", "0", "0", "0"],
        ["b", "2", "0", "0", "0", "0", "0", "2"],
        ["(all)", "3", "0", "0", "0", "0", "0", "2"],
    ]
