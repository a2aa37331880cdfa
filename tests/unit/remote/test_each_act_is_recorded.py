"""Each verb that acts leaves a record that names the caller, what was chosen and how much changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from peerjob import Client, Filter, Flow, Job, KeyLimit, Limit, Node, Query, Role, Signal, Token, Tokens
from peerjob.model.ids import IdSource
from peerjob.remote.wire.rpcs import RPCS
from support.rpc import served


async def work(tenant: str = "x") -> None: ...


WORK = Job("work", work, limits=[Limit("few", concurrency=2), KeyLimit("{tenant}")])
IDS = IdSource(Node().clock)
WAITS, ALSO_WAITS, ENDED, NEW = (IDS.one() for _ in range(4))
TOKEN = Tokens([Token.of("secret", Role.ADMIN, "ann")])
END = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
START = END - timedelta(hours=2)
Verb = Callable[[Client, str], Awaitable[object]]


def flow() -> Flow:
    made = Flow("nightly")
    made.add(WORK.call())
    return made


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


ACTS: dict[str, tuple[Verb, str, int | None]] = {
    "ScheduleJob": (lambda to, _: to.schedule("work", "a"), "kind=work", 1),
    "ScheduleJobs": (lambda to, _: to.schedule_many([WORK.call("a"), WORK.call("b")]), "kind=work", 2),
    "ScheduleFlow": (lambda to, _: to.schedule_flow(flow()), "name=nightly members=1 kind=work", 1),
    "CancelInstances": (
        lambda to, _: to.cancel_instances(Query(kind="work", tag="t")),
        'query={"kind": "work", "tag": "t"}',
        2,
    ),
    "CancelInstance": (lambda to, _: to.cancel_instance(WAITS), f"uuid={WAITS}", 1),
    "RunNow": (lambda to, _: to.run_now(WAITS, id=NEW), f"uuid={WAITS} request_uuid={NEW}", 1),
    "Signal": (lambda to, _: to.signal(WAITS, Signal("go", str), "a secret"), f"uuid={WAITS} name=go", 1),
    "RetryInstances": (
        lambda to, _: to.retry_instances(Query(uuid=ENDED), id=NEW),
        f'query={{"uuid": "{ENDED}"}} request_uuid={NEW}',
        1,
    ),
    "RetryInstance": (lambda to, _: to.retry_instance(ENDED, id=NEW), f"uuid={ENDED} new_uuid={NEW}", 1),
    "ClearInstances": (
        lambda to, _: to.clear_instances(Filter(after=START, before=END + timedelta(hours=2))),
        f'filter={{"before": "{stamp(END + timedelta(hours=2))}", "after": "{stamp(START)}"}}',
        1,
    ),
    "ClearHistory": (
        lambda to, _: to.clear_history(Filter(older_than="0s")),
        'filter={"older_than": "0s"}',
        1,
    ),
    "ClearLogs": (lambda to, _: to.clear_logs(Filter(older_than="0s")), 'filter={"older_than": "0s"}', 0),
    "Clear": (lambda to, _: to.clear(), "", None),
    "PutSchedule": (lambda to, _: to.add_schedule(WORK.with_options(every="1h", name="new")), "name=new kind=work", 1),
    "PauseSchedule": (lambda to, _: to.pause_schedule("hourly", "a note"), "name=hourly", 1),
    "ResumeSchedule": (lambda to, _: to.resume_schedule("hourly"), "name=hourly", 1),
    "TriggerSchedule": (lambda to, _: to.trigger_schedule("hourly", id=NEW), f"name=hourly new_uuid={NEW}", 1),
    "RemoveSchedule": (lambda to, _: to.remove_schedule("hourly"), "name=hourly", 1),
    "Backfill": (
        lambda to, _: to.backfill("hourly", START, END),
        f"name=hourly start={stamp(START)} end={stamp(END)}",
        2,
    ),
    "SetLimit": (
        lambda to, _: to.set_limit("few", concurrency=7, rate="7/s", burst=3, note="a note"),
        "name=few concurrency=7 rate=7/s burst=3",
        None,
    ),
    "SetKeyLimit": (
        lambda to, _: to.set_key_limit("work", concurrency=7, note="a note"),
        "kind=work concurrency=7",
        None,
    ),
    "PauseKind": (lambda to, _: to.pause_kind("work", "a note"), "kind=work", None),
    "ResumeKind": (lambda to, _: to.resume_kind("work"), "kind=work", None),
    "ResizeWorkers": (lambda to, node: to.resize_workers(3, node=node), "workers=3 node=NODE", None),
    "Drain": (lambda to, node: to.drain(30, node=node), "node=NODE", None),
    "Undrain": (lambda to, node: to.undrain(node=node), "node=NODE", None),
}
"""RPC → a call, what its record says of the arguments, and how much the call made or changed. `NODE` is the node."""


def test_each_rpc_that_acts_has_a_case() -> None:
    assert ACTS.keys() == {name for name, rpc in RPCS.items() if rpc.acts}


@pytest.mark.parametrize("name", ACTS)
async def test_the_record_names_the_caller_and_what_was_chosen(name: str) -> None:
    act, criteria, count = ACTS[name]
    async with served(WORK, workers=1, tokens=TOKEN) as (node, server), Client(server.target, token="secret") as client:
        for id in (WAITS, ALSO_WAITS, ENDED):
            await node.schedule_as(id, WORK.with_options(after="1h", tags=["t"]).call())
        assert await node.cancel_instance(ENDED)
        await node.add_schedule(WORK.with_options(cron="0 * * * *", timezone="UTC", name="hourly"))
        await act(client, node.name)
        await node.audit_trail.flush()
        (record,) = await node.audit()
    chosen = criteria.replace("NODE", node.name)
    assert (record.verb, record.criteria, record.count, record.result) == (name, chosen, count, "ok")
    assert (record.principal, record.address, record.node, record.calls) == ("ann", "127.0.0.1", node.name, 1)


async def test_a_record_says_all_of_a_call_without_a_criterion_alone() -> None:
    async with served(WORK, workers=1, tokens=TOKEN) as (node, server), Client(server.target, token="secret") as client:
        await client.cancel_instances(Query(limit=7, order="desc"))
        await client.clear_logs()
        await node.audit_trail.flush()
        records = {one.verb: one.criteria for one in await node.audit()}
    assert records == {
        "CancelInstances": 'query={"descending": true, "all": true}',
        "ClearLogs": 'filter={"all": true}',
    }
