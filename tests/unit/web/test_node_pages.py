"""The pages of nodes and of the audit log."""

import asyncio
import re

import pytest

from peerjob import Client, Job, Node, NodeView, Role, Server
from peerjob.model.record import NodeInfo
from peerjob.node.work.outbox import OutboxState, RelayNode
from peerjob.web.pages.nodes import NodeLine
from support.dashboards import pages_of, submit
from support.factories import shared_url
from support.waiting import until

VOLATILE = r'name="form_(?:token|id)" value="[\w-]+"|data-now="[^"]+"|<time.*?</time>|<svg.*?</svg>|[\d.]+ m?s|< 1 ms'
"""What differs between two visits of a page."""
HOLD = Job("hold", asyncio.Event().wait)


async def test_a_node_shows_what_it_runs_and_is_drained_and_resized() -> None:
    async with Node("memory://", jobs=HOLD, name="alpha", workers=2) as node, pages_of(node) as client:
        running = await node.schedule(HOLD)
        await until(lambda: any(worker.kind for worker in node.workers()))
        page = (await client.get("/nodes")).text
        assert f'href="/instances/{running.id}"' in page
        assert "1 of 2" in page

        answer = await submit(client, "/nodes/drain", node=node.incarnation)
        assert answer.headers["location"] == "/nodes"
        notice = (await client.get("/nodes")).text
        assert "The node drains: it takes no more work" in notice
        assert "/nodes/undrain" in notice
        await submit(client, "/nodes/undrain", node=node.incarnation)
        assert [view.intake for view in await node.nodes()] == ["active"]
        await submit(client, "/nodes/resize", node="alpha", workers="5")
        assert node.num_workers == 5
        for workers, status in (("0", 400), ("x", 400), ("", 400), ("-1", 400)):
            assert (await submit(client, "/nodes/resize", node="alpha", workers=workers)).status_code == status
        assert (await submit(client, "/nodes/drain", node="beta")).status_code == 404
        assert node.num_workers == 5


async def test_what_the_page_did_is_in_the_audit_log() -> None:
    async with Node("memory://", name="alpha") as node, pages_of(node) as client:
        assert "Nothing was done" in (await client.get("/audit")).text
        await submit(client, "/nodes/resize", node="alpha", workers="3")
        await submit(client, "/nodes/drain", node="beta")

        async def recorded() -> bool:
            return len(await node.audit()) == 2

        await until(recorded)
        page = (await client.get("/audit")).text
        assert "node=alpha workers=3" in page
        assert "UnknownNodeError" in page
        assert "node=beta" not in (await client.get("/audit?verb=ResizeWorkers")).text
        assert "No record matches" in (await client.get("/audit?q=zzz")).text


async def test_a_client_serves_the_same_pages() -> None:
    jobs = [HOLD, Job("tick", lambda: None, cron="30 2 * * *", timezone="Europe/Berlin")]
    async with (
        Node("memory://", name="alpha", jobs=jobs) as node,
        Server(node, "127.0.0.1:0") as server,
        Client(f"127.0.0.1:{server.port}") as client,
        pages_of(node) as own,
        pages_of(client) as remote,
    ):
        await node.trigger_schedule("tick")
        await until(lambda: node.is_leader)
        for path in ("/schedules", "/schedules/tick?start=2026-01-01&end=2026-02-01", "/fires/tick", "/kinds/tick"):
            pages = [(await one.get(path)).text for one in (own, remote)]
            assert "Nothing to show" not in pages[0]
            assert [re.sub(VOLATILE, "", page) for page in pages[:1]] == [
                re.sub(VOLATILE, "", page) for page in pages[1:]
            ]
        assert (await submit(remote, "/kinds/schedule", kind="tick")).status_code == 303
        assert (await submit(remote, "/nodes/resize", node="alpha", workers="3")).status_code == 303
        assert (node.num_workers, await node.count()) == (3, 2)


@pytest.mark.parametrize(("age", "late"), [(0.4, False), (2.4, False), (2.6, True)])
def test_a_node_that_does_not_renew_is_shown_as_late(age: float, late: bool) -> None:
    info = NodeInfo(name="alpha", incarnation="i", workers=2)
    view = NodeView(info=info, renewed_us=1_000_000, expires_us=6_000_000, age_us=round(age * 1_000_000))
    assert NodeLine(view=view, leads=False, runs=(), running=0).late is late


@pytest.mark.parametrize("role", [Role.READER, Role.OPERATOR])
async def test_only_an_admin_acts_on_nodes(role: Role) -> None:
    async with Node(shared_url(), name="alpha") as node, pages_of(node, role) as client:
        assert 'method="post"' not in (await client.get("/nodes")).text
        for verb in ("drain", "undrain", "resize"):
            assert (await submit(client, f"/nodes/{verb}", node="alpha", workers="3")).status_code == 403
        assert [view.intake for view in await node.nodes()] == ["active"]


class FakeOutbox:
    """The relay of an outbox with seven rows, whose database can be away."""

    away = False

    async def run(self, node: RelayNode) -> None:
        await asyncio.Event().wait()

    async def state(self) -> OutboxState:
        if self.away:
            raise OSError("postgresql://user:hunter2@host is away")
        return OutboxState(table="shop_outbox", rows=7, oldest=1.5, refused=2, inbox=1)


async def test_the_outbox_of_the_node_that_serves_is_shown() -> None:
    outbox = FakeOutbox()
    async with Node("memory://", outbox=outbox) as node, pages_of(node) as client:
        page = re.sub(r"<[^>]*>|\s+", " ", (await client.get("/nodes")).text)
        assert re.search(r"shop_outbox +Waiting +7 rows, the oldest for 1\.5 s +Kept aside +2 rows that", page)
        outbox.away = True
        page = (await client.get("/nodes")).text
        assert "The database of the outbox does not answer: OSError." in page
        assert "hunter2" not in page
    async with Node("memory://") as node, pages_of(node) as client:
        assert "Outbox" not in (await client.get("/nodes")).text
