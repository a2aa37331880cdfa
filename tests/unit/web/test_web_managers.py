"""The dashboard over a client, in the examples, and for principals whose rights are limited."""

import base64
import importlib.util
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from starlette.requests import Request

from peerjob import Client, Job, Node, Principal, Query, Rights, Role, State, Token, Tokens, instance_cleaner
from peerjob.testing.clock import VirtualClock
from peerjob.web import dashboard
from peerjob.web.cluster import ServedCluster
from support.dashboards import browsing, pages_of, submit
from support.factories import shared_url
from support.rpc import served

EXAMPLES = Path(__file__).parents[3] / "examples"


async def test_a_client_serves_the_same_pages() -> None:
    tokens = Tokens([Token.of("t", Role.OPERATOR, "dashboard-client")])
    async with (
        served(Job("echo", str), workers=0, tokens=tokens) as (node, server),
        Client(server.target, token="t") as remote,
        pages_of(remote) as client,
    ):
        made = await node.schedule("echo", "a text")
        for path in ("/", "/instances", f"/instances/{made.id}", "/kinds", "/nodes", "/schedules"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
        assert "a text" in (await client.get(f"/instances/{made.id}")).text
        assert (await client.get("/audit")).status_code == 403, "the token of the client is no admin's"
        assert (await submit(client, "/instance/cancel", id=made.id)).status_code == 303
        assert (await made.refresh()).state is State.CANCELLED
        await node.audit_trail.flush()
        assert [(one.principal, one.verb) for one in await node.audit()] == [("dashboard-client", "CancelInstance")]


async def test_a_client_schedules_a_form_once() -> None:
    async with (
        served(Job("echo", str), workers=0) as (node, server),
        Client(server.target) as remote,
        pages_of(remote) as client,
        pages_of(node) as other,
    ):
        made = await node.schedule("echo", 1)
        page = (await client.get(f"/instance/again?id={made.id}")).text
        fields = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page))
        other.cookies = client.cookies
        answers = [
            await one.post("/instance/again", data=fields | {"arguments": '{"args": [2]}'})
            for one in (client, other, client)
        ]
        assert await node.count() == 2
    assert {one.status_code for one in answers} == {303}
    assert len({one.headers["location"] for one in answers}) == 1


@pytest.mark.parametrize(
    "rights",
    [
        Rights(role=Role.ADMIN, namespaces=("other",)),
        Rights(role=Role.ADMIN, until=datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
async def test_rights_elsewhere_and_expired_rights_open_nothing(rights: Rights) -> None:
    async def allow(request: Request) -> Principal:
        return Principal(name="lim", rights=rights)

    async with Node("memory://") as node, browsing(dashboard(node, authorize=allow)) as client:
        assert (await client.get("/")).status_code == 403


def _limited(role: Role, *kinds: str) -> Any:
    async def allow(request: Request) -> Principal:
        return Principal(name="lim", rights=Rights(role=role, kinds=kinds))

    return allow


MIXED = [
    Job("mail.send", str, tags=["both"]),
    Job("mail.tick", str, every="1h", name="mail tick"),
    Job("bank.login", str, tags=["both"]),
    Job("bank.tick", str, every="1h", name="bank tick"),
]


async def test_limited_rights_show_their_kinds_only(clock: VirtualClock) -> None:
    async with (
        Node("memory://", jobs=MIXED, clock=clock) as node,
        browsing(dashboard(node, authorize=_limited(Role.ADMIN, "mail.*"))) as client,
    ):
        own, other = await node.schedule("mail.send", "a"), await node.schedule("bank.login", "secret")
        await clock.advance(30)
        await node.schedules()
        for path in ("/", "/instances", "/instances?tag=both", "/kinds", "/nodes", "/schedules", "/search?q=k"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "bank" not in answer.text, path
            assert "lim (admin of mail.*)" in answer.text
        await node.schedule_many(Job("bank.login", str).with_options(after="1h").call("b") for _ in range(3))
        await node.schedule(Job("mail.send", str).with_options(after="1h"), "b")
        await clock.advance(30)
        overview = (await client.get("/")).text
        assert "mail.send" in overview
        assert '>1</span> <span class="label">Queued or delayed' in overview
        assert own.id in (await client.get("/instances")).text
        found = [
            (await client.get(path)).status_code
            for path in (
                f"/instances/{own.id}",
                "/schedules/mail%20tick",
                "/fires/mail%20tick",
                "/kinds/mail.send",
                f"/instances/{other.id}",
                f"/instances/{other.id}/arguments",
                f"/live/instances/{other.id}",
                "/schedules/bank%20tick",
                "/fires/bank%20tick",
                "/fires.csv/bank%20tick",
                "/kinds/bank.login",
                "/instances?kind=bank.login",
                f"/instances?id={other.id}",
                f"/instance/again?id={other.id}",
                "/audit",
            )
        ]
        assert found == [200] * 4 + [404] * 6 + [403] * 2 + [200, 404, 403]
        hidden = await client.get(f"/instances?id={other.id}")
        assert f"/instances/{other.id}" not in hidden.text


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_no_link_to_a_page_has_the_id_of_another_kind(limit: int, order: Literal["asc", "desc"]) -> None:
    async with Node("memory://", jobs=MIXED, workers=0) as node:
        own, foreign = list[str](), set[str]()
        for kinds in (
            ["bank.login"] * 30,
            ["mail.send", "bank.login", "mail.send"],
            ["bank.login"] * 30,
            ["mail.send"],
        ):
            made = await node.schedule_many(node.job(kind).call("x") for kind in kinds)
            own += [one.id for one in made if one.kind == "mail.send"]
            foreign |= {one.id for one in made if one.kind == "bank.login"}
        scoped = ServedCluster("", node).for_kinds(Rights(role=Role.READER, kinds=("mail.*",))).manager
        seen, cursors = dict[str, None](), list[str | None]()
        while not cursors or cursors[-1]:
            cursor = cursors[-1] if cursors else None
            page = await scoped.lookup_instances(Query(limit=limit, order=order, cursor=cursor))
            seen |= dict.fromkeys(one.id for one in page)
            cursors.append(page.cursor)
            assert len(set(cursors)) == len(cursors), "each page goes on"
        assert list(seen) == (own[::-1] if order == "desc" else own)
        assert not foreign & set(cursors)


async def test_limited_rights_act_on_their_kinds_only(clock: VirtualClock) -> None:
    async with (
        Node("memory://", jobs=MIXED, workers=0, clock=clock) as node,
        browsing(dashboard(node, authorize=_limited(Role.ADMIN, "mail.*"))) as client,
    ):
        own, other = await node.schedule("mail.send", "a"), await node.schedule("bank.login", "b")
        await clock.advance(1)
        refused = [
            await submit(client, "/instance/cancel", id=other.id),
            await submit(client, "/instance/retry", id=other.id),
            await submit(client, "/instance/again", id=other.id, arguments="{}"),
            await submit(client, "/kinds/schedule", kind="bank.login"),
            await submit(client, "/schedules/trigger", name="bank tick"),
            await submit(client, "/schedules/pause", name="bank tick"),
            await submit(client, "/instances/act", verb="cancel", scope="all", go="1"),
            await submit(client, "/instances/act", verb="cancel", scope="all", go="1", f_tag="both"),
            await submit(client, "/instances/act", verb="cancel", scope="all", go="1", f_kind="bank.login"),
            await submit(client, "/instances/act", verb="clear", scope="all", go="1"),
            await submit(client, "/nodes/drain", node=node.name),
            await submit(client, "/nodes/resize", node=node.name, workers="3"),
        ]
        assert [one.status_code for one in refused] == [404, 404, 404, 403, 404, 404, 400, 400, 403, 403, 403, 403]
        await submit(client, "/instances/act", verb="cancel", scope="selected", id=other.id, go="1")
        assert (await other.refresh()).state is State.SCHEDULED
        assert "/nodes/drain" not in (await client.get("/nodes")).text
        assert (await submit(client, "/schedules/pause", name="mail tick")).status_code == 303
        done = await submit(client, "/instances/act", verb="cancel", scope="all", go="1", f_kind="mail.send")
        assert "Cancelled: 1" in done.text
        assert (await own.refresh()).state is State.CANCELLED
        assert (await submit(client, "/instance/retry", id=own.id)).status_code == 303


@pytest.mark.parametrize(
    ("role", "kinds", "kind"),
    [(Role.ADMIN, ["mail.*"], "mail.pay"), (Role.OPERATOR, ["mail.*"], "mail.pay"), (Role.OPERATOR, [], "mail.tidy")],
)
async def test_an_alias_starts_no_kind_of_others(clock: VirtualClock, role: Role, kinds: list[str], kind: str) -> None:
    store = shared_url()
    pay, tidy = Job("bank.pay", str, aliases=("mail.pay",)), instance_cleaner().with_options(aliases=("mail.tidy",))
    async with (
        Node(store, jobs=[pay, tidy], name="worker", clock=clock),
        Node(store, workers=0, clock=clock) as node,
        browsing(dashboard(node, authorize=_limited(role, *kinds))) as client,
    ):
        args = ["x"] if kind == "mail.pay" else []
        old = await node.schedule(kind, *args)
        await clock.run(old.wait(10))
        await node.add_schedule(Job(kind).with_options(cron="0 0 * * *", name="each").call(*args))
        before = await node.count()
        year = {"start": "2025-12-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
        answers = [
            await submit(client, "/kinds/schedule", kind=kind, whole="[]"),
            await submit(client, "/instance/again", id=old.id, arguments='{"args": ["y"]}'),
            await submit(client, "/instance/retry", id=old.id),
            await submit(client, "/instances/act", verb="retry", scope="selected", id=old.id, go="1"),
            await submit(client, "/instances/act", verb="retry", scope="all", f_kind=kind, go="1"),
            await submit(client, "/schedules/trigger", name="each"),
            await submit(client, "/schedules/backfill", name="each", **year),
            await submit(client, "/schedules/pause", name="each"),
            await submit(client, "/schedules/resume", name="each"),
        ]
        assert [one.status_code for one in answers] == [403] * 9
        assert "bank.pay" not in "".join(one.text for one in answers)
        assert await node.count() == before


@pytest.fixture
def fastapi_example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DASHBOARD_PASSWORD", "secret")
    spec = importlib.util.spec_from_file_location("fastapi_dashboard", EXAMPLES / "fastapi_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fastapi_dashboard", module)
    spec.loader.exec_module(module)
    return module


async def test_the_example_of_fastapi_asks_for_a_password(fastapi_example: Any) -> None:
    async with fastapi_example.node, browsing(fastapi_example.app) as client:
        made = (await client.post("/greetings/Ann")).json()
        assert (await client.get(made["page"])).status_code == 403
        for password, status in (("secret", 200), ("wrong", 403), ("", 403)):
            word = base64.b64encode(f"ops:{password}".encode()).decode()
            answer = await client.get(made["page"], headers={"authorization": f"Basic {word}"})
            assert answer.status_code == status
        answer = await client.get(made["page"], auth=httpx.BasicAuth("ops", "secret"))
        assert "ops (operator)" in answer.text


def test_the_example_of_django_lets_nobody_in_without_a_session() -> None:
    program = """
import asyncio, httpx, django_dashboard as example
async def main():
    async with example.node, httpx.AsyncClient(
        transport=httpx.ASGITransport(example.application), base_url="http://localhost"
    ) as client:
        print((await client.get("/jobs/")).status_code, (await client.get("/other")).status_code)
asyncio.run(main())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=EXAMPLES, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.stdout.split() == ["403", "404"], ran.stderr


async def test_rights_in_one_namespace_show_its_cluster_and_no_name_of_another() -> None:
    async def allow(request: Request) -> Principal:
        return Principal(name="ann", rights=Rights(role=Role.ADMIN, namespaces=("far",)))

    async with (
        Node("memory://") as near,
        Node("memory://", namespace="far") as far,
        browsing(dashboard({"near-one": near, "far-one": far}, authorize=allow)) as client,
    ):
        overall, own, other = [await client.get(path) for path in ("/", "/far-one/", "/near-one/")]
    assert (overall.status_code, own.status_code, other.status_code) == (200, 200, 403)
    for page in (overall, own):
        assert "/far-one/" in page.text
        assert "near-one" not in page.text
