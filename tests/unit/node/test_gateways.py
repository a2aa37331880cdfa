"""A node without the code of a kind checks its calls and keeps its options."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import pytest
from msgspec.structs import replace

from peerjob import INJECTED, ArgumentError, Client, Context, Job, Node, OptionError, Query, Secret, Server, Store
from peerjob.model.definition import decode_definition
from peerjob.model.descriptor import DescribedRecurrence, Descriptor
from peerjob.model.published import KindDescriptor
from peerjob.model.record import Enqueued, NewInstance, NodeInfo
from peerjob.model.spec import redacted
from peerjob.testing import VirtualClock, running_node
from support.factories import flaky_store, memory_store, shared_url
from support.flaky import FlakyStore


async def charge(
    user: int, amount: float = 1.0, *, note: str | None = None, context: Context = INJECTED, **more: Any
) -> str:
    return f"{user} {amount} {note} {more}"


def strict(number: int, at: datetime | None = None) -> None: ...


def night() -> None: ...


def hidden(name: str, password: Annotated[str, Secret] = "geheim") -> None: ...


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Login:
    user: str
    password: Annotated[str, Secret] = "geheim"


def points(where: list[Point], login: Login | None = None) -> None: ...


OPTIONS: dict[str, Any] = {
    "priority": 2,
    "tags": ["money"],
    "retention": "2h",
    "max_crashes": 7,
    "key": "user/{user}/{note}",
}
CHARGE = Job("charge", charge, **OPTIONS)
STRICT = Job("strict", strict)


@dataclass
class Site:
    """A node with the code, and one without workers and without the code, on one store."""

    url: str
    worker: Node
    gateway: Node

    async def stored(self) -> list[tuple[Any, ...]]:
        """What the store has of each instance that concerns the queue, by key."""
        found = [one async for one in self.worker.iter_instances(Query())]
        return sorted((str(one.record.key), one.kind, one.priority, one.tags) for one in found)


@pytest.fixture
async def site(clock: VirtualClock) -> AsyncIterator[Site]:
    url, jobs = shared_url(), [CHARGE, STRICT, Job("hidden", hidden)]
    async with (
        running_node(jobs, clock=clock, store=url, name="worker", workers=1) as worker,
        running_node(clock=clock, store=url, name="gateway", workers=0) as gateway,
    ):
        yield Site(url, worker, gateway)


class Recorder(FlakyStore):
    """A store that keeps each new instance, because the retention and the crashes are in no record."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.made: list[NewInstance] = []

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        self.made += instances
        return await self.inner.enqueue(instances, node=node)


# -- options -----------------------------------------------------------------------------------------------------------


async def test_a_gateway_applies_the_options_of_the_definition(site: Site) -> None:
    await site.worker.schedule("charge", 1)
    await site.gateway.schedule("charge", 2)
    await site.gateway.schedule(Job("charge"), 3)
    await site.gateway.schedule_many([Job("charge").call(4, note="x")])
    await site.gateway.schedule(Job("charge").with_options(priority=9, tags=["own"], key="own{"), 5)
    assert await site.stored() == [
        ("own{", "charge", 9, ("own",)),
        ("user/1/null", "charge", 2, ("money",)),
        ("user/2/null", "charge", 2, ("money",)),
        ("user/3/null", "charge", 2, ("money",)),
        ("user/4/x", "charge", 2, ("money",)),
    ]


async def test_retention_crashes_schedules_and_repetitions_keep_them_too(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_node([CHARGE, Job("old", strict, aliases=["older"], max_crashes=5)], clock=clock, store=url):
        store = Recorder(memory_store(clock, url))
        async with running_node(clock=clock, store=store.store, workers=0) as gateway:
            first = await gateway.schedule("charge", 1)
            await gateway.schedule("older", 1)
            schedule = await gateway.add_schedule(Job("charge").with_options(every="1h", name="hourly"), 7)
            await clock.run(first.result())
            await gateway.retry_instance(first.id)
            await gateway.retry_instances(Query(kind="charge"))
    charged = [one for one in store.made if one.kind == "charge"]
    assert {(one.retention_us, one.max_crashes, one.priority, one.tags) for one in charged} == {
        (7_200_000_000, 7, 2, ("money",))
    }
    assert len(charged) >= 3
    assert [one.max_crashes for one in store.made if one.kind == "older"] == [5]
    definition = decode_definition(schedule.row.definition)
    assert (definition.key, definition.priority, definition.max_crashes) == ("user/7/null", 2, 7)


async def test_a_secret_stays_one(site: Site) -> None:
    await site.gateway.schedule("hidden", "n", password="geheim")
    (found,) = [one async for one in site.gateway.iter_instances(Query(kind="hidden"))]
    assert "geheim" not in str(found.arguments)
    assert b"geheim" not in redacted(found.record.spec)


async def test_a_key_function_is_refused_unless_the_call_has_a_key(clock: VirtualClock) -> None:
    url = shared_url()
    keyed = Job("keyed", strict, key=lambda given: f"n/{given.number}")
    async with (
        running_node(keyed, clock=clock, store=url),
        running_node(clock=clock, store=url, workers=0) as gateway,
    ):
        with pytest.raises(OptionError, match=r"template such as.*function of job 'keyed'"):
            await gateway.schedule("keyed", 1)
        with pytest.raises(OptionError, match="function of job 'keyed'"):
            await gateway.add_schedule(Job("keyed").with_options(every="1h"), 1)
        await gateway.schedule(Job("keyed").with_options(key="own"), 1)
        await gateway.schedule(keyed, 2)
        assert {one.record.key async for one in gateway.iter_instances(Query())} == {"own", "n/2"}


# -- checks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "args", "kwargs", "problem"),
    [
        ("charge", (), {}, "user: missing"),
        ("charge", ("x",), {}, "user: Input should be a valid integer"),
        ("charge", (1.5,), {}, "user: Input should be a valid integer, got a number with a fractional part"),
        ("charge", (1, "a lot"), {}, "amount: Input should be a valid number"),
        ("charge", (1, 2, 3), {}, "takes at most 2 positional arguments, 3 given"),
        ("charge", (1,), {"user": 2}, "user: given by position and by name"),
        ("charge", (1,), {"note": 5}, "note: Input should be a valid string"),
        ("strict", (1,), {"other": 2}, "has no parameter 'other'"),
        ("strict", (1, "tomorrow"), {}, "at: Input should be a valid datetime"),
        ("hidden", ("n",), {"password": 5}, "password: does not fit its annotation (got ***)"),
    ],
)
async def test_a_gateway_refuses_what_no_reading_accepts(
    site: Site, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], problem: str
) -> None:
    errors: list[str] = []
    for node in (site.worker, site.gateway):
        for call in (node.schedule(kind, *args, **kwargs), node.schedule_many([Job(kind).call(*args, **kwargs)])):
            with pytest.raises(ArgumentError) as raised:
                await call
            assert problem in str(raised.value)
            errors.append(str(raised.value))
    assert len(set(errors)) == 1
    assert await site.stored() == []


@pytest.mark.parametrize(
    ("kind", "args", "kwargs"),
    [
        ("charge", ("7", "2.5"), {"note": None}),
        ("charge", (1,), {"anything": [1, {"x": 2}]}),
        ("charge", (1, 2.0), {"note": "?"}),
        ("strict", ("3", "2026-01-01T00:00:00Z"), {}),
        ("strict", (3, datetime(2026, 1, 1, tzinfo=UTC)), {}),
    ],
)
async def test_a_gateway_takes_what_a_reading_accepts(
    site: Site, clock: VirtualClock, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert (await site.gateway.schedule(kind, *args, **kwargs)).kind == kind
    (instance,) = [one async for one in site.gateway.iter_instances(Query())]
    await clock.run(instance.result())


async def test_a_call_passes_if_any_live_build_accepts_it(clock: VirtualClock) -> None:
    def renamed(count: int) -> None: ...

    url = shared_url()
    old, new = Job("strict", strict, priority=1), Job("strict", renamed, priority=3, version=1)
    async with running_node(clock=clock, store=url, workers=0, name="gateway") as gateway:
        async with running_node(old, clock=clock, store=url, name="old"):
            first = await gateway.schedule("strict", number=1)
            with pytest.raises(ArgumentError, match="count"):
                await gateway.schedule("strict", count=1)
            async with running_node(new, clock=clock, store=url, name="new"):
                # the gateway reads again before it refuses, so it need not wait until it reads the nodes next
                second = await gateway.schedule("strict", count=1)
                third = await gateway.schedule("strict", number=1)
                both = await gateway.schedule("strict", 5)
                with pytest.raises(ArgumentError, match="count: missing"):
                    await gateway.schedule("strict")
        async with running_node(new, clock=clock, store=url, name="new again"):
            await clock.advance(6)
            with pytest.raises(ArgumentError, match="number"):
                await gateway.schedule("strict", number=1)
        await clock.advance(6)
        with pytest.raises(ArgumentError, match="number"):
            await gateway.schedule("strict", number=1)  # no node is live: the last build counts
        last = await gateway.schedule("strict", count=2)
    assert [one.priority for one in (first, second, third, both, last)] == [1, 3, 1, 3, 3]


async def test_nothing_is_refused_while_a_node_of_an_older_release_may_accept_it(
    site: Site, clock: VirtualClock
) -> None:
    store = memory_store(clock, site.url)
    await store.open()
    (view,) = [view for view in await site.worker.nodes() if view.name == "worker"]
    older = replace(view.info, name="older", incarnation="i" * 36, descriptors=b"", intake="")
    await store.join(older, ttl_us=60_000_000)
    await clock.advance(6)
    await site.gateway.schedule("strict", other=1)
    assert (await site.gateway.schedule(Job("charge").with_options(key="k"), nonsense=1)).priority == 2
    await store.leave(older.incarnation)
    await clock.advance(6)
    with pytest.raises(ArgumentError):
        await site.gateway.schedule("strict", other=1)
    await store.close()


async def test_a_descriptor_that_cannot_be_read_refuses_nothing(clock: VirtualClock) -> None:
    url = shared_url()
    store = memory_store(clock, url)
    await store.open()
    kinds = ("odd",)
    await store.publish_descriptors([KindDescriptor(kind="odd", digest=b"12345678", body=b"\xc1")])
    info = NodeInfo(name="later", incarnation="i" * 36, kinds=kinds, workers=1, descriptors=b"12345678")
    await store.join(info, ttl_us=60_000_000)
    async with running_node(clock=clock, store=url, workers=0) as gateway:
        assert (await gateway.schedule("odd", 1, x=2)).priority == 5
    await store.close()


# -- cost --------------------------------------------------------------------------------------------------------------


async def test_a_known_kind_costs_no_more_requests(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with (
        running_node([CHARGE, STRICT], clock=clock, store=url),
        running_node(clock=clock, store=flaky.store, workers=0) as gateway,
    ):
        await gateway.schedule("strict", 0)
        flaky.calls.clear()
        for number in range(50):
            await gateway.schedule("strict", number)
            await gateway.schedule("strict", str(number))
        assert {verb: count for verb, count in flaky.calls.items() if verb in ("nodes", "descriptors")} == {}
        await clock.advance(60)
        await gateway.schedule("strict", 0)
        assert flaky.calls["descriptors"] == 0
        with pytest.raises(ArgumentError):
            await gateway.schedule("strict", "x")
        assert flaky.calls["descriptors"] == 1


async def test_a_schema_is_made_once_for_all_nodes(clock: VirtualClock) -> None:
    url = shared_url()
    jobs = [CHARGE, Job("hidden", hidden), Job("points", points)]
    flaky = flaky_store(clock, url)
    async with running_node(jobs, clock=clock, store=url):
        await clock.advance(1)
        async with running_node(jobs, clock=clock, store=flaky.store):
            await clock.advance(1)
            assert flaky.calls["publish_descriptors"] == 1
        store = memory_store(clock, url)
        await store.open()
        found = await store.descriptors(["charge", "hidden", "points"])
        await store.close()
    charge_, hidden_, points_ = (msgspec.json.decode(one.schema) for (one,) in found)
    assert charge_["properties"]["amount"] == {"type": "number", "default": 1.0}
    assert (charge_["required"], charge_["additionalProperties"]) == (["user"], True)
    assert hidden_["properties"]["password"] == {"type": "string", "writeOnly": True}
    assert not any(b"geheim" in one.schema or b"geheim" in one.body for (one,) in found)
    assert points_["properties"]["login"] == {"writeOnly": True}
    assert points_["properties"]["where"]["items"] == {"$ref": "#/$defs/where.Point"}
    assert points_["$defs"]["where.Point"]["required"] == ["x"]


async def test_a_kind_with_too_much_to_say_is_published_bare(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    url = shared_url()
    wide = Job("wide", strict, tags=[f"{number:0200d}" for number in range(50)])
    async with (
        running_node([wide, STRICT], clock=clock, store=url),
        running_node(clock=clock, store=url, workers=0) as gateway,
    ):
        assert "'wide': its parameters and options have over 8192 bytes" in caplog.text
        assert (await gateway.schedule("wide", nonsense=True)).tags == ()
        with pytest.raises(ArgumentError):
            await gateway.schedule("strict", nonsense=True)


# -- clients -----------------------------------------------------------------------------------------------------------


async def test_a_client_of_a_gateway_gets_the_same() -> None:
    url = shared_url()
    async with (
        Node(url, jobs=[CHARGE, STRICT], name="worker", workers=1),
        Node(url, name="gateway", workers=0) as gateway,
        Server(gateway, "127.0.0.1:0") as server,
        Client(f"127.0.0.1:{server.port}") as client,
    ):
        one = await client.schedule(Job("charge").with_options(after="1h"), "7")
        same = await client.schedule(Job("charge"), 7)
        assert (one.priority, one.tags, one.record.key) == (2, ("money",), "user/7/null")
        assert (same.id, same.is_new) == (one.id, False)
        with pytest.raises(ArgumentError, match="user: missing"):
            await client.schedule("charge")
        with pytest.raises(ArgumentError, match="has no parameter 'x'"):
            await client.schedule_many([Job("strict").call(1, x=2)])


async def test_a_gateway_lists_the_recurrence_of_a_kind() -> None:
    url = shared_url()
    jobs = [
        CHARGE,
        Job("nightly", night, cron="0 3 * * *", timezone="Europe/Berlin"),
        Job("often", night, every="90s"),
        Job("interval", night, cron="@every 5m"),
    ]
    async with (
        Node(url, jobs=jobs, name="worker", workers=1) as worker,
        Node(url, name="gateway", workers=0) as gateway,
        Server(gateway, "127.0.0.1:0") as server,
        Client(f"127.0.0.1:{server.port}") as client,
    ):
        listed = {job.kind: (job.cron, job.every, job.timezone) for job in await client.registered_jobs()}
        assert listed == {job.kind: (job.cron, job.every, job.timezone) for job in await worker.registered_jobs()}
    assert listed == {
        "charge": (None, None, None),
        "nightly": ("0 3 * * *", None, "Europe/Berlin"),
        "often": (None, timedelta(seconds=90), None),
        "interval": ("@every 5m", timedelta(minutes=5), None),
    }


def test_an_older_release_reads_the_descriptor_of_a_recurring_kind() -> None:
    """It skips what it does not know, and the descriptor of a kind without a recurrence is the one that it writes."""
    older = msgspec.defstruct(
        "Older",
        [
            (field.name, field.type, field.default)
            for field in msgspec.structs.fields(Descriptor)
            if field.name != "recurrence"
        ],
        kw_only=True,
        omit_defaults=True,
    )
    plain = Descriptor(kind="nightly", priority=2, tags=("a",))
    recurring = replace(plain, recurrence=DescribedRecurrence(cron="0 3 * * *", timezone="UTC"))
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(recurring), type=older)
    assert msgspec.msgpack.encode(read) == msgspec.msgpack.encode(plain)


async def test_a_build_that_is_published_after_its_node_has_joined_is_found(clock: VirtualClock) -> None:
    url = shared_url()
    late = flaky_store(clock, url)
    publishing = late.stall("publish_descriptors")
    async with running_node(clock=clock, store=url, workers=0, name="gateway") as gateway:
        worker = Node(late.store, jobs=[CHARGE], name="worker", clock=clock)
        starting = asyncio.ensure_future(worker.start())
        await clock.advance(1)
        assert (await gateway.schedule(Job("charge").with_options(after="1h"), nonsense=1)).priority == 5
        publishing.release()
        await clock.run(starting)
        await clock.advance(6)
        assert (await gateway.schedule("charge", 1)).priority == 2
        with pytest.raises(ArgumentError):
            await gateway.schedule("charge", nonsense=1)
        await clock.run(worker.stop())


async def test_a_store_that_goes_away_after_a_bulk_call_is_asked_once_for_all_kinds(clock: VirtualClock) -> None:
    jobs = [Job(f"kind{number}", night) for number in range(20)]
    flaky = flaky_store(clock)
    async with running_node(*jobs, store=flaky.store, clock=clock, workers=0) as gateway:
        await clock.advance(60)  # what the node knows of its peers is too old
        flaky.fail("nodes")
        before = flaky.calls["nodes"]
        assert len(await gateway.schedule_many(one.call() for one in jobs)) == 20
        assert flaky.calls["nodes"] - before == 1
        flaky.heal()
