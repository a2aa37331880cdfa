"""The page of a durable instance shows its steps, what it waits for and its children, and sends a signal."""

import re
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from peerjob import INJECTED, Context, Flow, Instance, Node, Principal, Rights, Role, Signal, job
from peerjob.testing import VirtualClock, running_node
from peerjob.web import dashboard
from support.dashboards import browsing, pages_of
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
        assert "fetch: Completed" in text
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
