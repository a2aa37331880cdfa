"""Every page in every role, and what all pages have in common."""

import asyncio

import pytest

from peerjob import Job, Node, OptionError, Role
from peerjob.web import dashboard
from peerjob.web.pages import ROUTES
from support.dashboards import allowing, browsing, pages_of

# the titles are in the navigation; the other pages belong to an instance or to a text
PAGES = [route for route in ROUTES if route.title]


@pytest.mark.parametrize("route", PAGES, ids=lambda route: route.path)
@pytest.mark.parametrize("role", [None, *Role])
async def test_each_page_opens_for_those_who_may_read_it(route: object, role: Role | None) -> None:
    page = next(one for one in PAGES if one is route)
    async with Node("memory://") as node, pages_of(node, role) as client:
        answer = await client.get(page.path)
    assert answer.status_code == (200 if role is not None and role >= page.role else 403)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert " style=" not in answer.text
    assert "onclick" not in answer.text
    assert "<script>" not in answer.text


async def test_the_overview_counts_what_is_stored() -> None:
    running = asyncio.Event()

    async def hold() -> None:
        running.set()
        await asyncio.sleep(3600)

    async with Node("memory://", jobs=Job("hold", hold), workers=1) as node, pages_of(node) as client:
        for _ in range(3):
            await node.schedule("hold")
        await node.schedule("lost.kind", allow_unknown=True)
        await running.wait()
        text = (await client.get("/")).text
    assert 'value">1</span> <span class="label">Running' in text
    assert 'value">3</span> <span class="label">Queued' in text
    assert "No live node runs the kind lost.kind: 1 wait." in text
    assert text.index("lost.kind") < text.index(">hold<"), "an unserved kind stands first"


async def test_links_begin_with_the_path_of_the_mount() -> None:
    async with (
        Node("memory://") as node,
        browsing(dashboard(node, authorize=allowing(Role.READER)), root_path="/jobs") as client,
    ):
        answer = await client.get("/jobs/")
    assert answer.status_code == 200
    assert 'href="/jobs/static/app.css' in answer.text
    assert "Path=/jobs;" in answer.headers["set-cookie"]


async def test_several_clusters_stand_in_one_page() -> None:
    async with (
        Node("memory://", jobs=Job("a", print)) as one,
        Node("memory://", namespace="two") as other,
        pages_of({"eu": one, "us": other}) as client,
    ):
        listed, eu, unknown = await client.get("/"), await client.get("/eu/"), await client.get("/mars/")
    assert 'href="/eu/"' in listed.text
    assert 'href="/us/"' in listed.text
    assert eu.status_code == 200
    assert 'href="/eu/instances?kind=a"' in eu.text
    assert (unknown.status_code, unknown.headers["location"]) == (303, "/")


async def test_an_unknown_path_is_not_found() -> None:
    async with Node("memory://") as node, pages_of(node) as client:
        answer = await client.get("/nothing/<b>")
    assert answer.status_code == 404
    assert "<b>" not in answer.text


async def test_wrong_arguments_are_refused() -> None:
    node, allow = Node("memory://"), allowing(Role.READER)
    for manager in ({}, {"live": node}, {"a/b": node}, {"": node}, "x", None):
        with pytest.raises(OptionError, match="manager"):
            dashboard(manager, authorize=allow)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="authorize"):
        dashboard(node, authorize=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="frame_ancestors"):
        dashboard(node, authorize=allow, frame_ancestors="x; script-src *")
