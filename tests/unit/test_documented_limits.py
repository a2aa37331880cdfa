"""The numbers of docs/limits.md are those of the code, and each row is compared or named as one without a number."""

import re
from datetime import timedelta
from pathlib import Path

from peerjob import StoreLimits
from peerjob.cli import web_server
from peerjob.handles.job_log import MAX_MESSAGE
from peerjob.model import activity_sample, audit, bounds, descriptor, durable, flow, limits, query, stored_limit
from peerjob.model.published import MAX_DESCRIPTORS
from peerjob.model.record import MAX_HISTORY
from peerjob.node import node
from peerjob.node.body import errors, schema
from peerjob.node.manager import batches, flows, kind_catalogue, watchers
from peerjob.node.work import context_backend, failure_log, outbox, references
from peerjob.remote.server import calls, grpc_server, server
from peerjob.remote.wire import requests
from peerjob.sql import relay_rows, tables
from peerjob.store.lua.scripts import lib as lua_library
from peerjob.store.sqlite import driver
from peerjob.store.sqlite.requests import WRITE_LOCK_TIMEOUT
from peerjob.transfer import importing, lines
from peerjob.web import cluster as web_cluster
from peerjob.web import feeds, filters, flow_tree, forms, lookups, security, signin, steps, values, viewers
from peerjob.web.page import ACT_PATIENCE
from peerjob.web.pages import limits as limit_pages
from peerjob.web.pages import nodes, overview, schedules
from peerjob.web.patience import PATIENCE
from support.limits import number, rows

ROWS = rows()
WEB_CONNECTIONS = (
    "connections of one address to `jobd --web-listen`, except a [trusted proxy](security.md#callers-behind-proxies)"
)
PASSED = "waiting instances that pass in one step because the code of their key limit has a higher concurrency"
GATE_MOVES = Path(lua_library.__path__[0]) / "gate_moves.lua"
ELEMENTS = next(name for name in ROWS if name.startswith("elements of a value"))


def test_each_documented_number_is_that_of_the_code() -> None:
    store = StoreLimits()
    code = {
        "arguments of one instance, encoded": node.MAX_PAYLOAD,
        "result, encoded": node.MAX_PAYLOAD,
        ELEMENTS: bounds.MAX_ELEMENTS,
        "depth of a value": bounds.MAX_DEPTH,
        "digits of an integer or a Decimal": bounds.MAX_DIGITS,
        "kind": limits.MAX_KIND,
        "idempotency key": limits.MAX_KEY,
        "name of a schedule": limits.MAX_KEY,
        "`max_retries`, `max_crashes`": limits.MAX_COUNT,
        "`version` of a schedule": limits.MAX_NUMBER,
        "tag": limits.MAX_TAG,
        "tags of an instance": limits.MAX_TAGS,
        "aliases of a job": limits.MAX_ALIASES,
        "description": limits.MAX_NOTE,
        "note beside a pause": limits.MAX_NOTE,
        "name of a node": limits.MAX_NODE_NAME,
        "page of a lookup": query.MAX_LIMIT,
        "jobs in one request of a client": requests.MAX_BULK,
        "log lines of an instance": store.max_log_lines,
        "log messages of an instance": store.max_log_bytes,
        "log message": MAX_MESSAGE,
        "text beside a progress": context_backend.MAX_PROGRESS,
        "error of an attempt in the history": failure_log.MAX_NOTE,
        "traceback of the last error": errors.MAX_TEXT,
        "history entries of an instance": MAX_HISTORY,
        "final instances of a kind": store.max_final_per_kind,
        "fires of a schedule in the ledger": store.max_fires,
        "kinds and aliases of a node": limits.MAX_NODE_KINDS,
        "kinds with instances in a namespace": store.max_kinds,
        "failures of a kind that are logged one by one": failure_log.MAX_PER_SECOND,
        "keys of a map or set with the same hash": bounds.MAX_EQUAL_HASHES,
        "time zones in a value": bounds.MAX_ZONES,
        "gRPC message": server.MAX_MESSAGE,
        "gRPC connections": grpc_server.MAX_CONNECTIONS,
        "open gRPC calls of a node": calls.MAX_CALLS,
        "answers of gRPC that one caller has not read": calls.MAX_UNREAD,
        "open gRPC calls of one token, or of one address without tokens": calls.MAX_CALLS_CALLER,
        "unread events of one `watch()` of a query": watchers.MAX_WAITING,
        "wait of a lookup for the table of rows that cannot be sent": outbox.LOOK_ASIDE,
        "rows of which a node remembers why they have no instance": batches.MAX_REFUSED,
        "records in the audit log": audit.MAX_AUDIT,
        "criteria in a record of the audit log": audit.MAX_CRITERIA,
        "line of an export": lines.MAX_LINE,
        "instances that an import refused": importing.MAX_REFUSED,
        "arguments or result of an instance on SQLite": driver.MAX_PAYLOAD,
        "wait for the turn to write a SQLite file": WRITE_LOCK_TIMEOUT,
        "published parameters and options of a kind": descriptor.MAX_BODY,
        "published JSON schema of a kind": schema.MAX_SCHEMA,
        "published builds of a kind": MAX_DESCRIPTORS,
        "builds of other nodes' kinds that a node keeps in memory, about 5 KB each": kind_catalogue.MAX_DESCRIBED,
        "slots of 10 s in the activity of a namespace": activity_sample.MAX_SLOTS,
        "kinds with a row of their own in a slot": activity_sample.MAX_SAMPLED_KINDS,
        "workers of a node": limits.MAX_WORKERS,
        "live views of a process": viewers.MAX_VIEWERS,
        "live views of one token, or of one address without tokens": viewers.MAX_VIEWERS_CALLER,
        "rows of a page": filters.ROWS,
        "kinds on the overview": overview.MAX_KINDS,
        "schedules of a page, each with its last 30 outcomes": schedules.PAGE,
        "nominal times of a backfill from the page of a schedule": schedules.MAX_BACKFILL,
        "running instances that the page of nodes reads": nodes.MAX_RUNS,
        "instances that a search for the text of an error reads": lookups.MAX_SCANNED,
        "instances that are counted before an action on all that match": steps.MAX_COUNTED,
        "instances in one step of an action": steps.STEP,
        "log lines of a page": feeds.MAX_LINES,
        "value on a page": values.MAX_SHOWN,
        "wait of a page for the store": PATIENCE,
        "wait of a form for the store": ACT_PATIENCE,
        "pages that are kept for a time without the store": web_cluster.MAX_REMEMBERED,
        "form": security.MAX_FORM,
        "sessions of a process": signin.MAX_SESSIONS,
        "connections of `jobd --web-listen`": web_server.MAX_CONNECTIONS,
        WEB_CONNECTIONS: web_server.MAX_CONNECTIONS_ADDRESS,
        "wait of `jobd --web-listen` for a whole request": web_server.REQUEST_SECONDS,
        "text of a filter": filters.MAX_FILTER,
        "kinds without a node that the overview warns of": overview.MAX_UNSERVED,
        "sent forms that a process remembers, to answer a repeat": forms.MAX_FORMS,
        "sets of kinds of limited tokens, whose samples are kept": web_cluster.MAX_SCOPES,
        "kinds that share a limit, aliases included": stored_limit.MAX_LIMIT_KINDS,
        "limits on the page Limits, and keys of a kind": limit_pages.MAX_ROWS,
        "arguments of one call, encoded": node.MAX_PAYLOAD,
        "steps of an instance; a wait with a time is one": durable.MAX_STEPS,
        "signals of an instance": durable.MAX_SIGNALS,
        "value of a step or a signal, encoded": durable.MAX_STEP_BYTES,
        "all steps and signals of an instance": durable.MAX_ALL_STEP_BYTES,
        "names of the signals that the tasks of a body await at once": durable.MAX_AWAITED_BYTES,
        "name of a flow": flow.MAX_FLOW_NAME,
        "members of a flow": durable.MAX_MEMBERS,
        "needs of one member": flow.MAX_MEMBER_NEEDS,
        "needs of all members of a flow": durable.MAX_EDGES,
        "a flow, encoded": node.MAX_PAYLOAD,
        "results that the outputs in the arguments of one member stand for": references.MAX_REFERENCES,
        "results that a repeated flow keeps": flows.MAX_KEPT_STEPS << 20,
        "boxes in the drawing of a flow": flow_tree.MAX_DRAWN,
        PASSED: _constant_of_lua(GATE_MOVES, "MAX_PASSED"),
        "name of the table, and of its schema": tables.MAX_TABLE,
        "rows and instances that `jobd check` and a metric count": relay_rows.MOST_COUNTED,
    }
    assert {name: number(ROWS[name][0]) for name in code} == code
    days = {
        "final instance": store.retention_us,
        "fire in the ledger": store.fires_kept_us,
        "kind that no node publishes any more": store.kinds_kept_us,
    }
    assert {name: timedelta(days=number(ROWS[name][0])) for name in days} == {
        name: timedelta(microseconds=time) for name, time in days.items()
    }
    without_one_number = {
        "namespace",
        "arguments of one call",
        "error classes and functions in `retry_on` and in `no_retry_on`",
        "instances that a claim moves out of the delayed ones",
        "queued instances",
        "waiting instances that pass in one step because the code of their key limit has a higher concurrency",
        "schedules",
        "readers of `instance.watch()`",
        "free space beside a SQLite file",
        "size of the activity of a namespace, for any number of nodes",
        "records of the ledger in the calendar; in the CSV",
        "ended instances whose durations the page of a kind shows",
        "attempts to sign in from one address",
        "gRPC connections of one address, except a [trusted proxy](security.md#callers-behind-proxies)",
        "limits of a job",
        "name of a shared limit; key of a key limit",
        "concurrency of a limit",
        "burst of a rate; rate of a limit",
        "value of `transact`, encoded",
        "name of a `transact`",
        "rows in one pass of a relay",
        "rows that a relay moves there after an outage of a day",
        "time in which a row is sent again after it was taken",
        "values of an instance that is over",
        "name of a step, a wait, a signal or a child",
        "children of a body",
    }
    assert set(ROWS) == code.keys() | days.keys() | without_one_number


def _constant_of_lua(path: Path, name: str) -> int:
    """The number that a script of Lua gives to a local name."""
    (value,) = re.findall(rf"local {name}\b[^=\n]*= (\d+)", path.read_text())
    return int(value)
