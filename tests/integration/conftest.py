"""Servers that a test may break, and daemons."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import glide.glide_client
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from peerjob import Node
from peerjob.store.lua.client.glide_driver import GlideDriver
from peerjob.store.lua.client.redis_driver import RedisDriver
from peerjob.web import dashboard
from support import jobd as daemon
from support.browser import Pages, chromium, find_chromium
from support.jobctl import serving
from support.jobd import Jobd
from support.lua_site import MakeSite, Site
from support.servers import ServerProcess, StartServer, needed
from support.waiting import PATIENCE
from support.web_site import Cluster, Serving, by_header, fill, jobs

EARLY = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Come early to the tests that take long: at the end, all other workers would wait for them."""
    longest = [item for item in items if item.get_closest_marker("long") is not None]
    others = [item for item in items if item.get_closest_marker("long") is None]
    items[:] = [*others[:EARLY], *longest, *others[EARLY:]]


def open_glide_clients() -> set[int]:
    registry: Any = vars(glide.glide_client)["_client_registry"]
    return set(registry)


@pytest.fixture(autouse=True)
def no_glide_client_is_left() -> Iterator[None]:
    """Otherwise a garbage collection in a later test warns, and that test fails."""
    before = open_glide_clients()
    yield
    assert open_glide_clients() <= before


@pytest.fixture(params=["redis"])
async def site(request: pytest.FixtureRequest, start_server: StartServer) -> AsyncIterator[MakeSite]:
    """Start a Redis with settings; and a Valkey, with either driver, for tests that ask for it."""
    async with AsyncExitStack() as cleanup:

        def start(*, appendonly: bool = False, maxmemory: str = "0", policy: str = "noeviction") -> Site:
            server = start_server(request.param, appendonly=appendonly, maxmemory=maxmemory, policy=policy)
            return Site(server, cleanup)

        yield start


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may take its time to open, on a machine that is busy: nothing is tried again there."""
    for module in ("lua.store", "etcd.driver", "sqlite.driver"):
        monkeypatch.setattr(f"peerjob.store.{module}.OPEN_TIMEOUT", PATIENCE)
    drivers: tuple[Any, ...] = (RedisDriver, GlideDriver)
    for driver in drivers:
        monkeypatch.setitem(driver.__init__.__kwdefaults__, "call_timeout", PATIENCE)


@pytest.fixture
def jobd(tmp_path: Path) -> Iterator[Jobd]:
    with closing(Jobd(tmp_path)) as daemons:
        yield daemons


@pytest.fixture(scope="module", params=["redis"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a daemon with the jobs of `support.served_jobs` serves; on the store that the test asks for."""
    server: ServerProcess = request.getfixturevalue(f"{request.param}_server")
    with closing(Jobd(tmp_path_factory.mktemp("jobd"))) as jobd:
        child = serving(jobd, server.url, f"ctl-{uuid4().hex[:8]}")
        child.wait_for("leads in term")  # some tests ask for the leader
        yield daemon.target(child)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of the session, which run on the event loop of the session."""
    with needed():
        find_chromium()
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def browser_pages(browser: Browser) -> AsyncIterator[Pages]:
    """Open pages, of which none may have an error of a script, refused content or an unexpected answer."""
    pages = Pages(browser)
    try:
        yield pages
    finally:
        await pages.close()
    assert not pages.problems.texts


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def web_serving() -> AsyncIterator[Serving]:
    """Serve dashboards on loopback ports."""
    site = Serving()
    yield site
    await site.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def empty_cluster(web_serving: Serving) -> AsyncIterator[Cluster]:
    """A cluster without jobs, not to be changed."""
    async with Node("memory://", name="node-a") as node:
        yield Cluster(node=node, url=await web_serving.serve(dashboard(node, authorize=by_header)))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def full_cluster(web_serving: Serving) -> AsyncIterator[Cluster]:
    """A cluster with everything that pages show; tests may add to it."""
    async with Node("memory://", name="node-a", workers=4, jobs=jobs, allow_unknown=True) as node:
        await fill(node, queued=300)
        yield Cluster(node=node, url=await web_serving.serve(dashboard(node, authorize=by_header)))
        await node.stop(0)
