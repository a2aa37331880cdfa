"""The page of a durable instance shows its steps, what it waits for and its children, and sends a signal."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from peerjob import INJECTED, Context, Flow, Instance, Node, Principal, Query, Rights, Role, Signal, job
from peerjob.testing import VirtualClock, running_node
from peerjob.web import dashboard
from support.dashboards import browsing, pages_of, submit
from support.factories import durable_store

APPROVAL = Signal("approval", bool)


@job(kind="order")
async def order(context: Context = INJECTED) -> str:
    await context.step("charge", lambda: {"paid": 5})
    return "sent" if await context.wait_for(APPROVAL, timeout="3d") else "refunded"


@job(kind="fetch")
async def fetch(url: str) -> bytes:
    return url.encode()


@pytest.fixture
async def node(clock: VirtualClock) -> AsyncIterator[Node]:
    async with running_node(order, fetch, store=durable_store(clock), clock=clock, workers=2) as running:
        yield running


async def waiting(node: Node, clock: VirtualClock) -> Instance[str]:
    instance = await node.schedule(order)
    await clock.advance(1)
    return await instance.refresh()


async def test_a_signal_is_sent_from_the_page_of_its_instance(node: Node, clock: VirtualClock) -> None:
    async with pages_of(node, Role.OPERATOR) as client:
        instance = await waiting(node, clock)
        text = (await client.get(f"/instances/{instance.id}")).text
        assert "it is suspended: it waits for signal approval until" in text
        assert "charge" in text
        assert "&#34;paid&#34;: 5" in text
        (form,) = re.findall(r'action="/instance/signal"(.*?)</form>', text, re.DOTALL)
        fields = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form))
        bad = await client.post("/instance/signal", data=fields | {"value": "yes"})
        assert (bad.status_code, "JSON, such as true" in bad.text) == (400, True)
        answer = await client.post("/instance/signal", data=fields | {"value": "true"})
        assert answer.status_code == 303
        assert await instance.result(10) == "sent"


async def test_a_reader_sees_no_form(node: Node, clock: VirtualClock) -> None:
    async with pages_of(node, Role.READER) as client:
        instance = await waiting(node, clock)
        text = (await client.get(f"/instances/{instance.id}")).text
        assert "waits for signal approval" in text
        assert "/instance/signal" not in text


async def test_the_page_of_a_flow_shows_its_tree(node: Node, clock: VirtualClock) -> None:
    flow = Flow("import")
    page = flow.add(fetch.call("x"))
    last = flow.add(order.call(), after=[page])
    run = await node.schedule_flow(flow)
    await clock.advance(1)
    async with pages_of(node, Role.OPERATOR) as client:
        text = (await client.get(f"/instances/{run.id}")).text
        assert '<svg class="flow"' in text
        assert "&#34;needs&#34;: 1" in text
        assert "fetch: Completed" in text
        assert 'id="due">when its wait ends<' in text
        assert f'The others wait for: <a href="/instances/{run[last].id}">order</a>' in text
        assert "Schedule again with other arguments" not in text
        text = (await client.get(f"/instances/{run[last].id}")).text
        assert f'href="/instances/{run.id}"' in text
    for kinds, status in ((("order",), 404), (("order", "fetch"), 200)):
        rights = Rights(role=Role.OPERATOR, kinds=kinds)

        async def authorize(_: Request, rights: Rights = rights) -> Principal:
            return Principal(name="someone", rights=rights)

        async with browsing(dashboard(node, authorize=authorize)) as client:
            assert (await client.get(f"/instances/{run.id}")).status_code == status


async def test_the_tree_follows_its_flow(node: Node, clock: VirtualClock) -> None:
    flow = Flow("import")
    last = flow.add(order.call(), after=[flow.add(fetch.call("x"))])
    run = await node.schedule_flow(flow)
    await clock.advance(1)
    async with pages_of(node, Role.OPERATOR) as client:
        reading = asyncio.create_task(client.get(f"/live/instances/{run.id}"))
        await clock.advance(6)
        assert await node.signal(run[last], APPROVAL, True)
        await clock.advance(6)
        text = (await reading).text
    assert text.index("order: Scheduled") < text.index("order: Completed")


@job(kind="system.purge")
async def purge() -> None:
    """Only an admin may schedule it."""


@job(kind="size")
async def size(page: bytes) -> int:
    return len(page)


@pytest.mark.parametrize("scope", ["selected", "all"])
async def test_a_bulk_retry_of_a_flow_needs_the_rights_of_its_members(
    node: Node, clock: VirtualClock, scope: str
) -> None:
    node.register(purge)
    flow = Flow("clean")
    flow.add(purge.call())
    run = await node.schedule_flow(flow)
    await run.result(10)
    await clock.advance(1)
    given = {"verb": "retry", "scope": scope, "go": "1", "f_kind": "peerjob.flow", "id": run.id}
    for role, status, count in ((Role.OPERATOR, 403, 1), (Role.ADMIN, 303, 2)):
        async with pages_of(node, role) as client:
            answer = await submit(client, "/instances/act", **given)
            assert answer.status_code == (200 if scope == "all" and status == 303 else status)
            assert ("system.purge" in answer.text) == (status == 403)
        assert await node.count(Query(kind="peerjob.flow")) == count


async def test_a_member_that_only_its_flow_repeats_keeps_no_other_row_from_a_retry(
    node: Node, clock: VirtualClock
) -> None:
    node.register(size)
    flow = Flow("import")
    page = flow.add(fetch.call("x"))
    member = flow.add(size.call(page.output))
    run = await node.schedule_flow(flow)
    await run.result(10)
    other = await node.schedule(fetch, "y")
    await other.result(10)
    async with pages_of(node, Role.OPERATOR) as client:
        given = {"verb": "retry", "scope": "selected", "go": "1", "id": [run[member].id, other.id]}
        assert (await submit(client, "/instances/act", **given)).status_code == 303
    assert await node.count(Query(kind="fetch")) == 3
    assert await node.count(Query(kind="size")) == 1


async def test_a_page_says_so_if_the_history_no_longer_tells_the_start(node: Node, clock: VirtualClock) -> None:
    instance = await node.schedule(fetch, "x")
    await instance.result(10)
    await clock.advance(1)
    assert await node.clear_history() == 1
    async with pages_of(node, Role.READER) as client:
        text = (await client.get(f"/instances/{instance.id}")).text
    assert '<dd id="took">the history no longer tells</dd>' in text


async def test_the_kind_of_flows_is_one_that_each_node_runs(node: Node, clock: VirtualClock) -> None:
    async with pages_of(node, Role.READER) as client:
        flow = Flow("import")
        flow.add(order.call())
        await node.schedule_flow(flow)
        await clock.advance(1)
        row = re.search(
            r"<tr data-row>\s*<th[^>]*><a[^>]*>peerjob.flow</a>.*?</tr>", (await client.get("/kinds")).text, re.DOTALL
        )
        assert row is not None
        assert '<td data-label="Nodes" class="num">all</td>' in row[0]
        assert "No live node" not in (await client.get("/kinds/peerjob.flow")).text
