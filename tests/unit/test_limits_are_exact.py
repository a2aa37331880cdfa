"""Each limit of an argument is exact: the limit is taken, and what is beyond it is refused with a typed error."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from peerjob import (
    Backoff,
    Client,
    Flow,
    Job,
    KeyLimit,
    Limit,
    Node,
    PeerjobError,
    Query,
    ScheduleError,
    Server,
    Signal,
    explain,
)
from peerjob.model import activity, audit, durable, durations, ids, limits, query, record, stored_limit, timing
from peerjob.model import explain as explained
from peerjob.model import flow as flows
from peerjob.model.cron import text as cron_text
from peerjob.model.errors import ArgumentError, OptionError
from peerjob.node.body import call_parameters
from peerjob.node.manager import schedules
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire import requests
from peerjob.sql import Outbox, tables
from peerjob.testing import VirtualClock, running_node

NOW_US = 1_800_000_000_000_000
ROOT = Path(__file__).parents[2]
PARTS = ("node", "cluster", "src/peerjob")
NAMED = re.compile(r"_?(?:MAX|MIN)_[A-Z_]+")
LEFT_OUT = {"testing", "store", "proto", "django"}
WORK = Job("work", lambda: None)


@dataclass(frozen=True)
class Bound:
    """A limit of an argument."""

    at: int
    give: Callable[[int], object]
    """Gives a value of this size, length or number."""
    error: type[PeerjobError] = OptionError
    beyond: int = 1
    """The step to the first value that is refused; negative for a lower limit."""
    told: int | None = None
    """The number that the error names, if it is another one than the limit."""


def option(name: str, make: Callable[[int], Any] = lambda count: count) -> Callable[[int], object]:
    return lambda count: WORK.with_options(**{name: make(count)})


def text(count: int) -> str:
    return "ü" * count


def texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def with_arguments(count: int) -> None:
    call_parameters.check_count("work", texts(count), ())


def options_of(**options: Any) -> pb.ScheduleJobRequest:
    return pb.ScheduleJobRequest(kind="work", options=pb.JobOptions(**options))


def received(request: pb.ScheduleJobRequest) -> object:
    """What a node makes of a message."""
    return requests.call_of(request, lambda _: WORK)


def new_id(distance_us: int) -> object:
    at_ms = (NOW_US + distance_us) // 1000
    return ids.checked_new_id(str(UUID(int=at_ms << 80 | 7 << 76 | 2 << 62)), NOW_US)


def aliases_in_limit(count: int) -> Node:
    few = Limit("few", concurrency=1)
    return Node(jobs=[Job("work", lambda: None, limits=[few], aliases=texts(count - 1))])


BOUNDS: dict[str, Bound] = {
    "limits.MAX_KIND": Bound(limits.MAX_KIND, lambda count: Job(text(count))),
    "limits.MAX_KIND of a query": Bound(limits.MAX_KIND, lambda count: Query(kind=text(count))),
    "limits.MAX_KEY": Bound(limits.MAX_KEY, option("key", text)),
    "limits.MAX_KEY of a name": Bound(limits.MAX_KEY, option("name", text)),
    "limits.MAX_TAG": Bound(limits.MAX_TAG, option("tags", lambda count: [text(count)])),
    "limits.MAX_TAG of a query": Bound(limits.MAX_TAG, lambda count: Query(tag=text(count))),
    "limits.MAX_TAGS": Bound(limits.MAX_TAGS, option("tags", texts)),
    "limits.MAX_ALIASES": Bound(limits.MAX_ALIASES, lambda count: Job("work", aliases=texts(count))),
    "limits.MAX_NOTE": Bound(limits.MAX_NOTE, lambda count: Job("work", description=text(count))),
    "limits.MAX_LIMIT_NAME": Bound(limits.MAX_LIMIT_NAME, lambda count: Limit(text(count), concurrency=1)),
    "limits.MAX_ARGUMENTS": Bound(
        limits.MAX_ARGUMENTS, lambda count: call_parameters.check_count("work", texts(count), ()), ArgumentError
    ),
    "limits.MAX_ERROR_TESTS": Bound(limits.MAX_ERROR_TESTS, option("retry_on", lambda count: [ValueError] * count)),
    "limits.MAX_ERROR_TESTS of no_retry_on": Bound(
        limits.MAX_ERROR_TESTS, option("no_retry_on", lambda count: [ValueError] * count)
    ),
    "limits.MAX_ARGUMENTS of a message": Bound(
        limits.MAX_ARGUMENTS,
        lambda count: received(pb.ScheduleJobRequest(kind="work", arguments=texts(count))),
    ),
    "limits.MAX_ERROR_TESTS of a message": Bound(
        limits.MAX_ERROR_TESTS,
        lambda count: received(options_of(retry_on=pb.Labels(values=["ValueError"] * count))),
    ),
    "limits.MAX_ERROR_TESTS of no_retry_on in a message": Bound(
        limits.MAX_ERROR_TESTS,
        lambda count: received(options_of(no_retry_on=pb.Labels(values=["ValueError"] * count))),
    ),
    "limits.MAX_NODE_NAME": Bound(limits.MAX_NODE_NAME, lambda count: Node(name=text(count))),
    "limits.MAX_WORKERS": Bound(limits.MAX_WORKERS, lambda count: Node(workers=count)),
    "limits.MAX_SIZE": Bound(limits.MAX_SIZE, lambda size: Node(max_payload=size)),
    "limits.MAX_SIZE of a client": Bound(limits.MAX_SIZE, lambda size: Client(max_payload=size)),
    "limits.MAX_SIZE of messages": Bound(limits.MAX_SIZE, lambda size: Client(max_message=size)),
    "limits.MAX_SIZE of a server": Bound(limits.MAX_SIZE, lambda size: Server(Node(), max_message=size)),
    "limits.MAX_LEASE": Bound(limits.MAX_LEASE, lambda seconds: Node(lease_ttl=seconds), told=1),
    "limits.MAX_COUNT": Bound(limits.MAX_COUNT, option("max_retries")),
    "limits.MAX_COUNT of crashes": Bound(limits.MAX_COUNT, option("max_crashes")),
    "limits.MAX_SEED": Bound(limits.MAX_SEED, lambda seed: VirtualClock(seed=seed), told=0),
    "limits.MAX_NUMBER": Bound(limits.MAX_NUMBER, lambda number: Job("work", every="1h", version=number)),
    "query.MAX_LIMIT": Bound(query.MAX_LIMIT, lambda count: Query(limit=count)),
    "record.MAX_PRIORITY": Bound(record.MAX_PRIORITY, option("priority"), told=32),
    "record.MIN_PRIORITY": Bound(record.MIN_PRIORITY, option("priority"), beyond=-1, told=32),
    "stored_limit.MAX_CONCURRENCY": Bound(stored_limit.MAX_CONCURRENCY, lambda count: Limit("few", concurrency=count)),
    "stored_limit.MAX_CONCURRENCY of a key": Bound(
        stored_limit.MAX_CONCURRENCY, lambda count: KeyLimit("all", concurrency=count)
    ),
    "stored_limit.MAX_BURST": Bound(stored_limit.MAX_BURST, lambda count: Limit("few", rate="10/s", burst=count)),
    "stored_limit.MAX_SHARED_LIMITS": Bound(
        stored_limit.MAX_SHARED_LIMITS,
        lambda count: Job("work", limits=[Limit(name, concurrency=1) for name in texts(count)]),
    ),
    "stored_limit.MAX_LIMIT_KINDS": Bound(stored_limit.MAX_LIMIT_KINDS, aliases_in_limit),
    "timing.MAX_QUEUE_LIMIT": Bound(
        timing.MAX_QUEUE_LIMIT,
        lambda count: Job("work", every="1h", overlap="queue", queue_limit=count),
        ScheduleError,
    ),
    "timing.MAX_MISFIRE_LIMIT": Bound(
        timing.MAX_MISFIRE_LIMIT,
        lambda count: Job("work", every="1h", misfire="run_all", misfire_limit=count),
        ScheduleError,
    ),
    "text.MIN_EVERY_US": Bound(
        cron_text.MIN_EVERY_US,
        lambda time: Job("work", every=timedelta(microseconds=time)),
        ScheduleError,
        beyond=-1,
        told=cron_text.MIN_EVERY_US // 1000,
    ),
    "text.MIN_EVERY_US of a text": Bound(
        cron_text.MIN_EVERY_US // 1000,
        lambda time: Job("work", cron=f"@every {time}ms"),
        ScheduleError,
        beyond=-1,
    ),
    "text.MAX_TEXT": Bound(cron_text.MAX_TEXT, lambda count: explain("0 0 * * *" + " " * (count - 9)), ScheduleError),
    "durations.MAX_SECONDS": Bound(durations.MAX_SECONDS, option("timeout"), told=0),
    "durations.MAX_SECONDS of a backoff": Bound(
        durations.MAX_SECONDS, lambda seconds: Backoff(initial=1, max=seconds), told=0
    ),
    "explain.MAX_COUNT": Bound(explained.MAX_COUNT, lambda count: explain("@daily", count=count)),
    "ids.MAX_SKEW_US": Bound(ids.MAX_SKEW_US, new_id, beyond=1000, told=0),
    "ids.MAX_SKEW_US before": Bound(-ids.MAX_SKEW_US, new_id, beyond=-1000, told=0),
    "durable.MAX_STEP_NAME": Bound(durable.MAX_STEP_NAME, lambda count: Signal(text(count), int)),
    "durable.MAX_STEP_NAME of usual letters": Bound(durable.MAX_STEP_NAME, lambda count: Signal("x" * count, int)),
    "flow.MAX_FLOW_NAME": Bound(flows.MAX_FLOW_NAME, lambda count: Flow(text(count))),
    "tables.MAX_TABLE": Bound(tables.MAX_TABLE, lambda count: Outbox(table="x" * count)),
}
"""The limits of arguments, by module and constant; what follows is another place that has the limit."""


@pytest.mark.parametrize("name", BOUNDS)
def test_the_limit_is_taken_and_what_is_beyond_is_refused(name: str) -> None:
    bound = BOUNDS[name]
    bound.give(bound.at)
    with pytest.raises(bound.error) as refused:
        bound.give(bound.at + bound.beyond)
    told = abs(bound.at) if bound.told is None else bound.told
    assert not told or f"{told:,}" in str(refused.value) or str(told) in str(refused.value)


VERBS: dict[str, tuple[int, Callable[[Node, int], Coroutine[Any, Any, object]]]] = {
    "activity.MAX_ACTIVITY_MINUTES": (activity.MAX_ACTIVITY_MINUTES, lambda node, count: node.activity(count)),
    "schedules.MAX_PREVIEW": (schedules.MAX_PREVIEW, lambda node, count: node.next_fires("work", count)),
    "query.MAX_LIMIT of fires": (query.MAX_LIMIT, lambda node, count: node.fires("work", limit=count)),
    "audit.MAX_AUDIT": (audit.MAX_AUDIT, lambda node, count: node.audit(count)),
    "limits.MAX_NOTE of a pause": (limits.MAX_NOTE, lambda node, count: node.pause_schedule("work", text(count))),
    "limits.MAX_NOTE of a kind": (limits.MAX_NOTE, lambda node, count: node.pause_kind("work", text(count))),
    "limits.MAX_NOTE of a limit": (
        limits.MAX_NOTE,
        lambda node, count: node.set_limit("few", concurrency=2, note=text(count)),
    ),
    "limits.MAX_NOTE of a key limit": (
        limits.MAX_NOTE,
        lambda node, count: node.set_key_limit("work", concurrency=2, note=text(count)),
    ),
    "stored_limit.MAX_CONCURRENCY of a setting": (
        stored_limit.MAX_CONCURRENCY,
        lambda node, count: node.set_limit("few", concurrency=count),
    ),
    "stored_limit.MAX_CONCURRENCY of keys": (
        stored_limit.MAX_CONCURRENCY,
        lambda node, count: node.set_key_limit("work", concurrency=count),
    ),
    "stored_limit.MAX_BURST of a setting": (
        stored_limit.MAX_BURST,
        lambda node, count: node.set_limit("few", rate="10/s", burst=count),
    ),
}
"""The limits of arguments of verbs."""


@pytest.mark.parametrize("name", VERBS)
async def test_a_verb_takes_the_limit_and_refuses_one_more(clock: VirtualClock, name: str) -> None:
    most, give = VERBS[name]
    job = Job("work", lambda tenant="x": None, every="1h", limits=[Limit("few", concurrency=1), KeyLimit("{tenant}")])
    async with running_node(job, clock=clock) as node:
        await clock.advance(2)
        await give(node, most)
        with pytest.raises(OptionError, match=f"{most:,}"):
            await give(node, most + 1)


_NAMES = """
activity.MAX_COUNTED activity.MAX_DELAY activity.MAX_WAITING activity_sample.MAX_SAMPLED_KINDS
activity_sample.MAX_SAMPLED_NAMES activity_sample.MAX_SLOTS audit.MAX_CRITERIA audit.MAX_KINDS backfill.MAX_TIMES
batches.MAX_READ batches.MAX_REFUSED batches.MAX_REQUESTS bounds.MAX_DEPTH bounds.MAX_DIGITS bounds.MAX_ELEMENTS
bounds.MAX_EQUAL_HASHES bounds.MAX_INT_BITS bounds.MAX_INT_BYTES bounds.MAX_MOMENT bounds.MAX_ZONES
call_encoder.MAX_LOOKUPS call_encoder.MAX_UNREGISTERED calls.MAX_ADMITTING calls.MAX_CALLS calls.MAX_CALLS_CALLER
calls.MAX_PROBES calls.MAX_PROBE_WATCHES calls.MAX_RECEIVING calls.MAX_RECEIVING_CONNECTION calls.MAX_UNREAD
changes.MAX_LISTED claim_loop.MAX_FAILURES claim_loop.MAX_FAULT claim_loop.MAX_REFUSAL claim_loop.MAX_SLEEP
claim_loop.MAX_SPREAD_US claim_loop.MAX_WAIT client.MAX_MESSAGE client.MAX_WARNED cluster.MAX_FOLLOW
cluster.MAX_REMEMBERED cluster.MAX_REMEMBERED_TEXT cluster.MAX_SCOPES collector.MAX_AGE collector.MAX_AGES
collector.MAX_OLDEST connection.MAX_CONNECT connection.MAX_SILENCE context_backend.MAX_PROGRESS cron.MAX_CALLS
cron.MAX_LATE_CALLS cron.MIN_WAIT days.MAX_GAP_YEARS descriptor.MAX_BODY descriptor._MAX_TYPE_TEXT drain.MAX_ANSWER
durable.MAX_ALL_STEP_BYTES durable.MAX_AWAITED_BYTES durable.MAX_CHILDREN_CALL durable.MAX_EDGES durable.MAX_MEMBERS
durable.MAX_NEEDS_CALL durable.MAX_RESTORED_STEPS durable.MAX_SETTLED durable.MAX_SIGNALS durable.MAX_STEPS
durable.MAX_STEPS_CALL durable.MAX_STEP_BYTES election.MAX_CLOSE election.MAX_FOLLOWING election.MAX_PAUSE
election.MAX_STOP election.MIN_WAIT errors.MAX_DETAIL errors.MAX_TEXT event_counts.MAX_LABELS events.MAX_FIRST
failure_log.MAX_NOTE failure_log.MAX_PER_SECOND feeds.MAX_LINES filters.MAX_FILTER fires.MAX_CSV firing.MAX_SCHEDULES
flow.MAX_MEMBER_NEEDS flow_tree.MAX_ALIKE flow_tree.MAX_BLOCKERS flow_tree.MAX_CHILDREN flow_tree.MAX_DRAWN
flow_tree.MAX_LABEL flows.MAX_KEPT_STEPS flows.MAX_LINES flows._MAX_CHUNK forms.MAX_AGE_US forms.MAX_FORMS
frames.MAX_FRAME grpc_server.MAX_CONNECTIONS grpc_server.MAX_PENDING grpc_server.MAX_STREAMS http.MAX_CONNECTIONS
http.MAX_HEAD importing.MAX_REFUSED instance.MAX_BEFORE instance.MAX_CHAIN instance.MAX_READ instances.MAX_WAIT
instances._MAX_BESIDE job_log.MAX_MESSAGE job_schedules.MAX_CONFLICT_WAIT jobd.MAX_NODES jwt.MAX_AGE
jwt.MAX_KEYS_BYTES jwt.MAX_KNOWN jwt.MAX_NAME jwt.MIN_AGE jwt.MIN_RSA_BITS kind_catalogue.MAX_COUNT_AGE
kind_catalogue.MAX_DESCRIBED kind_catalogue.MAX_NAMES kind_catalogue.MAX_PUBLISHED kind_catalogue.MAX_READ
kind_catalogue.MAX_REMEMBERED kind_catalogue.MAX_SERVED_AGE limits.MAX_NODE_KINDS limits.MAX_ROWS lines.MAX_LINE
listed.MAX_LISTED log_lines.MAX_WAITING lookups.MAX_ERROR lookups.MAX_LOOKUPS lookups.MAX_SCANNED lookups.MAX_SHARED
loop_pauses.MAX_SMALL loop_pauses.MAX_STRETCH loop_thread.MAX_THREADS misfire.MAX_TOLERANCE_US
misfire.MIN_TOLERANCE_US node.MAX_PAYLOAD nodes.MAX_RUNS notices.MAX_NOTICE observing.MAX_SEARCHED
outcomes.MAX_SWALLOWED output.MIN_WIDTH overview.MAX_KINDS overview.MAX_UNSERVED pages.MAX_BYTES pages.MAX_STEP
pool.MAX_QUICK printable.MAX_SHOWN published.MAX_DESCRIPTORS rate_limiter.MAX_CLIENTS reconciler.MAX_ROUNDS
record.MAX_BATCH record.MAX_BATCH_BYTES record.MAX_CRASHES record.MAX_HISTORY recovery.MIN_WAIT recurrence.MAX_CACHED
references.MAX_READ references.MAX_REFERENCES refused_records.MAX_MESSAGE requests.MAX_BULK result_console.MAX_WIDTH
run.MAX_UNSENT_LINES runtime.MAX_AHEAD_US runtime.MAX_WAIT runtime.MIN_WAIT samples.MAX_DELAYED_KINDS samples.MAX_GONE
samples.MAX_OLDEST schedules.MAX_ATTEMPTS schedules.MAX_BACKFILL schema.MAX_SCHEMA scoped_manager.MAX_LOOKUPS
search.MAX_SIMILAR security.MAX_FIELDS security.MAX_FORM server.MAX_CONNECTIONS server.MAX_MESSAGE signin.MAX_SESSIONS
spans.MAX_LINKS steps.MAX_COUNTED stored_limit.MAX_HOLDERS streams.MAX_SHARED tables.MAX_CHANNEL text.MAX_ITEMS_CACHED
timetable.MAX_MOVED top.MAX_AGES top.MAX_KEYS top.MAX_OLDEST top.MIN_BARS trusted_proxies._MAX_KEPT
trusted_proxies._MAX_KEPT_TEXT unsent_reports.MAX_PENDING unsent_reports.MAX_PENDING_BYTES values.MAX_SHOWN
viewers.MAX_VIEWERS viewers.MAX_VIEWERS_CALLER watchers.MAX_FINAL watchers.MAX_WAITING web_server.MAX_CONNECTIONS
web_server.MAX_CONNECTIONS_ADDRESS web_server.MAX_SLOW web_server.MAX_STALLS words.MAX_LISTED zones.MAX_BLOCKS_CACHED
"""
OTHERS = frozenset(_NAMES.split())
"""Constants that limit no argument: they bound waits, and what is kept, shown or read at once.

The tests of the parts check the few of them that limit a large argument. Another argument belongs in a table above.
"""


def test_each_constant_is_in_a_table() -> None:
    found: set[str] = set()
    for path in chain.from_iterable((ROOT / part).rglob("*.py") for part in PARTS):
        if not LEFT_OUT & {*path.relative_to(ROOT).parts}:
            tree = ast.parse(path.read_text())
            targets = [target for one in tree.body if isinstance(one, ast.Assign) for target in one.targets]
            names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
            found |= {f"{path.stem}.{name}" for name in names if NAMED.fullmatch(name)}
    tables = {name.partition(" ")[0] for name in BOUNDS.keys() | VERBS.keys()} | OTHERS
    assert found == tables
