"""Each argument of each verb arrives at the store, from a node as from a client."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from peerjob import (
    Client,
    Filter,
    Flow,
    Job,
    KeyLimit,
    Level,
    Limit,
    Manager,
    Node,
    Query,
    Signal,
    State,
    StoreLimits,
    SystemClock,
    __version__,
)
from peerjob.model.ids import IdSource
from peerjob.model.policy import Options
from peerjob.model.record import NodeInfo
from peerjob.store.drivers import open_store
from support.asked import WRITES_OF_A_NODE, AskedStore
from support.factories import shared_url
from support.rpc import served


async def work(tenant: str = "x", number: int = 1) -> None: ...


FEW = Limit("few", concurrency=2, rate="1000/s", burst=1000)
WORK = Job("work", work, limits=[FEW, KeyLimit("{tenant}")])
MORE = Job("more", work, limits=[Limit("less", concurrency=3), KeyLimit("{tenant}")])
OTHER = Job("other", work)
GO, HALT = Signal("go", int), Signal("halt", int)
CLOCK = SystemClock()
IDS = IdSource(CLOCK)
MADE = [IDS.one() for _ in range(8)]
FIRST, SECOND = MADE[:2]
"""Ids of delayed instances."""
ENDED, ALSO_ENDED = MADE[2:4]
FLOW, OTHER_FLOW = MADE[4:6]
"""Cancelled ones."""
NEW, NEWER = MADE[6:]
DAY = datetime(2030, 1, 1, tzinfo=UTC)
NOW = datetime.now(UTC)
HOURLY = f"{(NOW.minute + 30) % 60} * * * *"
"""It is not due while the tests run."""


@dataclass
class Case:
    """Arguments of a verb, and for each parameter a value that must make a difference."""

    base: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)


def flow(name: str = "flow", number: int = 1) -> Flow:
    made = Flow(name)
    made.add(OTHER.call("x", number))
    return made


QUERIES = {
    "kind": "other",
    "uuid": FIRST,
    "state": State.COMPLETED,
    "level": Level.ERROR,
    "instance": SECOND,
    "tag": "t",
    "parent": FIRST,
    "before": DAY,
    "after": DAY - timedelta(days=9_000),
    "limit": 7,
    "cursor": "",
    "order": "desc",
}
"""A value for each criterion. A cursor has the form of one store."""
FILTERS = {"before": DAY, "after": DAY - timedelta(days=9_000), "older_than": "400d"}
VERBS: dict[str, Case] = {
    "schedule": Case(
        {"job": "other", "args": ("a",), "kwargs": {}}, {"job": "work", "args": ("b",), "kwargs": {"number": 2}}
    ),
    "schedule_as": Case({"id": NEW, "call": OTHER.call("a")}, {"id": NEWER, "call": OTHER.call("b")}),
    "schedule_many": Case({"calls": [OTHER.call("a")]}, {"calls": [OTHER.call("a"), OTHER.call("b")]}),
    "schedule_flow": Case({"flow": flow()}, {"flow": flow(number=2), "tags": ["t"], "id": NEW}),
    "retry_flow": Case({"instance": FLOW}, {"instance": OTHER_FLOW}),
    "signal": Case({"instance": FIRST, "signal": GO, "value": 1}, {"instance": SECOND, "signal": HALT, "value": 2}),
    "steps": Case({"instance": FIRST}, {"instance": SECOND}),
    "lookup_instance": Case({"uuid": FIRST}, {"uuid": SECOND}),
    "iter_logs": Case({"uuid": FIRST}, {"uuid": SECOND}),
    "cancel_instance": Case({"uuid": FIRST}, {"uuid": SECOND}),
    "run_now": Case({"uuid": FIRST}, {"uuid": SECOND, "id": NEW}),
    "retry_instance": Case({"uuid": ENDED}, {"uuid": ALSO_ENDED, "id": NEW}),
    "clear": Case(),
    "add_schedule": Case(
        {"job": OTHER.with_options(every="1h"), "args": ("a",), "kwargs": {}},
        {"job": OTHER.with_options(every="2h"), "args": ("b",), "kwargs": {"number": 2}},
    ),
    "lookup_schedule": Case({"name": "one"}, {"name": "two"}),
    "pause_schedule": Case({"schedule": "one"}, {"schedule": "two", "note": "why"}),
    "resume_schedule": Case({"schedule": "paused one"}, {"schedule": "paused two"}),
    "trigger_schedule": Case({"schedule": "one"}, {"schedule": "two", "id": NEW}),
    "remove_schedule": Case({"schedule": "one"}, {"schedule": "two"}),
    "backfill": Case(
        {"schedule": "one", "start": NOW - timedelta(hours=8), "end": NOW - timedelta(hours=4)},
        {"schedule": "two", "start": NOW - timedelta(hours=10), "end": NOW - timedelta(hours=2)},
    ),
    "fires": Case({"schedule": "one"}, {"schedule": "two", "after": DAY, "before": DAY, "limit": 7}),
    "next_fires": Case({"schedule": "one"}, {"schedule": "two"}),
    "audit": Case({}, {"limit": 7}),
    "drain": Case({"node": "peer"}, {"node": "other peer"}),
    "undrain": Case({"node": "peer"}, {"node": "other peer"}),
    "resize_workers": Case({"n": 3, "node": "peer"}, {"n": 4, "node": "other peer"}),
    "set_limit": Case({"name": "few"}, {"name": "less", "concurrency": 7, "rate": "7/s", "burst": 7, "note": "why"}),
    "set_key_limit": Case({"kind": "work"}, {"kind": "more", "concurrency": 7, "note": "why"}),
    "pause_kind": Case({"kind": "work"}, {"kind": "other", "note": "why"}),
    "resume_kind": Case({"kind": "work"}, {"kind": "other"}),
    "limits": Case(),
    "key_limits": Case({"kind": "work"}, {"kind": "more", "prefix": "p", "waiting_only": True}),
}

QUERY_VERBS = {
    "lookup_instances": set[str](),
    "lookup_history": {"state"},
    "lookup_logs": set[str](),
    "iter_instances": set[str](),
    "count": {"level", "limit", "cursor", "order"},
    "cancel_instances": {"limit"},
    "retry_instances": {"limit"},
}
"""Verbs with a query, and the criteria that they leave out."""
FILTER_VERBS = ("clear_instances", "clear_history", "clear_logs")
ELSEWHERE = {
    *("register", "unregister", "job", "jobs", "read_result", "detached_value", "injected_as"),  # ask no store
    *(
        "lookup_directly",
        "schedule_directly",
        "store_directly",
    ),  # are the sync form of a verb, for threads without an event loop
    *("keep_line", "keep_audit"),  # reach the store in the background
    *("registered_jobs", "leader", "nodes", "stats", "schedules"),  # read no more or less for their arguments
    "activity",  # is answered from memory for a second
    *("wait", "wait_final", "watch", "watch_instance"),  # read until something happens
}
"""Verbs that do not ask the store for what their arguments say."""
NO_DIFFERENCE = {
    "lookup_instance": {"job"},  # of the answer
    "iter_logs": {"follow"},  # of what comes later
    "next_fires": {"n"},  # of the answer
    "fires": {"cursor"},  # has the form of one store
    "drain": {"timeout"},  # of the wait
    "retry_flow": {"id"},
    "retry_instances": {"id"},
}
"""Parameters that a verb does not ask the store for."""


def all_cases() -> dict[str, Case]:
    queries = {
        verb: Case(
            {"query": Query(kind="work", tag="s")},
            {f"query.{name}": value for name, value in QUERIES.items() if name not in left_out},
        )
        for verb, left_out in QUERY_VERBS.items()
    }
    filters = {
        verb: Case({"filter": Filter()}, {f"filter.{name}": value for name, value in FILTERS.items()})
        for verb in FILTER_VERBS
    }
    return VERBS | queries | filters


CASES = all_cases()


@dataclass
class Site:
    store: AskedStore
    node: Node
    client: Client
    cursor: str

    async def asked(self, manager: Manager, verb: str, given: dict[str, Any]) -> list[str]:
        return await self.store.asked(lambda: call(manager, verb, given))


async def call(manager: Manager, verb: str, given: dict[str, Any]) -> None:
    """Call a verb with arguments by name, and read what it yields."""
    named = dict(given)
    answer: Any
    if "args" in named:
        answer = getattr(manager, verb)(named["job"], *named["args"], **named["kwargs"])
    elif verb == "schedule_as":
        answer = manager.schedule_as(named["id"], named["call"])
    else:
        answer = getattr(manager, verb)(**named)
    if inspect.isasyncgen(answer) or hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass
    else:
        await answer


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    store = AskedStore(open_store(shared_url(), namespace="default", clock=CLOCK, limits=StoreLimits()))
    async with (
        served(WORK, OTHER, MORE, workers=0, store=cast(Any, store)) as (node, server),
        Client(server.target) as client,
    ):
        for id in (FIRST, SECOND, ENDED, ALSO_ENDED):
            await node.schedule_as(id, OTHER.with_options(after="1h").call())
        for id in (FLOW, OTHER_FLOW):
            await node.schedule_flow(flow(), id=id)
        for id in MADE[2:6]:
            assert await node.cancel_instance(id)
        for name in ("one", "two", "paused one", "paused two"):
            await node.add_schedule(OTHER.with_options(cron=HOURLY, timezone="UTC", name=name))
        for name in ("paused one", "paused two"):
            await node.pause_schedule(name)
        peers = [await _join(store, name) for name in ("peer", "other peer")]
        store.known = (*MADE, *peers)
        page = await node.lookup_instances(Query(limit=1))
        assert page.cursor is not None
        yield Site(store, node, client, page.cursor)


async def _join(store: AskedStore, name: str) -> str:
    info = NodeInfo(name=name, incarnation=IDS.one(), version=__version__, intake="active", reads_layout=9)
    await store.store.join(info, ttl_us=3_600_000_000)
    return info.incarnation


def changed(case: Case, parameter: str, value: Any) -> dict[str, Any]:
    """The arguments of a case, one of which differs; those of the case for no parameter."""
    if not parameter:
        return case.base
    name, _, criterion = parameter.partition(".")
    return case.base | {name: replace(case.base[name], **{criterion: value}) if criterion else value}


@pytest.mark.parametrize("verb", CASES)
async def test_each_argument_makes_the_same_difference_through_a_client(site: Site, verb: str) -> None:
    case = CASES[verb]
    base = await site.asked(site.node, verb, case.base)
    assert base, "the verb asks for nothing"
    for parameter, value in {"": None, **case.other}.items():
        given = (
            changed(case, parameter, site.cursor if parameter.endswith("cursor") else value) if parameter else case.base
        )
        asked = await site.asked(site.node, verb, given)
        assert (asked == base) == (parameter == ""), f"{parameter} makes no difference"
        writes = [one for one in asked if one.partition(" ")[0] in WRITES_OF_A_NODE]
        assert all(f"'node': '{site.node.name}'" in one for one in writes), parameter
        # a client can ask for more, and for smaller pages
        assert _unpaged(asked) <= _unpaged(await site.asked(site.client, verb, given)), parameter


def _unpaged(asked: list[str]) -> set[str]:
    return {re.sub(r"'limit': \d+", "", one) for one in asked}


OF_INSTANCES: dict[str, Any] = {
    "priority": 3,
    "max_retries": 7,
    "retry_on": [ValueError],
    "no_retry_on": [ValueError],
    "backoff": 3,
    "timeout": 11,
    "on_store_loss": "continue",
    "max_crashes": 9,
    "key": "a key",
    "tags": ["t"],
    "retention": "2h",
}
OF_SCHEDULES: dict[str, Any] = {
    "description": "what it does",
    "name": "another",
    "version": 13,
    "every": "2h",
    "jitter": "1s",
    "overlap": "replace",
    "queue_limit": 7,
    "misfire": "run_once",
    "misfire_limit": 7,
    "start_deadline": "1m",
}
NOT_ASKED = {"aliases", "run_in", "limits", "on_complete", "on_terminate", "on_state_change"}
"""Options of the code of a job."""
TIMES = {"at": DAY, "after": "2h", "cron": "0 0 * * *", "timezone": "Europe/Berlin"}


def test_each_option_is_in_a_table() -> None:
    assert OF_INSTANCES.keys() | OF_SCHEDULES.keys() | NOT_ASKED | TIMES.keys() == Options.__annotations__.keys()


@pytest.mark.parametrize(
    ("verb", "job", "options"),
    [
        ("schedule", OTHER, OF_INSTANCES | {"at": DAY, "after": "2h"}),
        (
            "add_schedule",
            OTHER.with_options(every="1h", overlap="queue", misfire="run_all"),
            OF_INSTANCES | OF_SCHEDULES,
        ),
        ("add_schedule", OTHER.with_options(cron="1 1 1 1 *"), {"cron": "0 0 2 2 *", "timezone": "Europe/Berlin"}),
    ],
)
async def test_each_option_of_a_job_arrives(
    site: Site, verb: str, job: Job[..., Any, Any], options: dict[str, Any]
) -> None:
    base = await site.asked(site.node, verb, {"job": job, "args": (), "kwargs": {}})
    for name, value in options.items():
        given = {"job": job.with_options(**{name: value}), "args": (), "kwargs": {}}
        asked = await site.asked(site.node, verb, given)
        assert asked != base, name
        assert _unpaged(asked) <= _unpaged(await site.asked(site.client, verb, given)), name


def test_each_verb_and_each_parameter_has_a_case() -> None:
    verbs = {name for name in dir(Manager) if not name.startswith("_")}
    assert verbs == CASES.keys() | ELSEWHERE
    for verb, case in CASES.items():
        parameters = {name for name in inspect.signature(getattr(Manager, verb)).parameters if name != "self"}
        assert {name.partition(".")[0] for name in case.other} == parameters - NO_DIFFERENCE.get(verb, set()), verb
    assert QUERIES.keys() == {one.name for one in fields(Query)}
    assert FILTERS.keys() == {one.name for one in fields(Filter)}
