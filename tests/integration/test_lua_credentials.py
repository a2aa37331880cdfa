"""Nodes whose password changes while they work: a provider gives the new one."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from redis.credentials import CredentialProvider

from peerjob import Job, Node
from peerjob.model.errors import StoreCredentialsError, StoreUnavailableError
from peerjob.model.record import StoreLimits
from peerjob.store.lua.client import credentials as credentials_module
from peerjob.store.lua.store import LuaStore, lua_store
from support.sentinels import PASSWORD, WatchedServers
from support.servers import Server, ServerCluster, ServerKind, StartServer
from support.shifted import MovedClock
from support.waiting import IN_TIME, PATIENCE, until

USER = "jobs"


class Rotating(CredentialProvider):
    """Gives the password of the user on some servers, which `rotate` changes."""

    def __init__(self, *servers: Server, password: str | None = None) -> None:
        self.servers = servers
        self.password = password
        """The password of the default user, which changes that of the others."""
        self.number = 0
        self.questions = 0
        self.loops = set[asyncio.AbstractEventLoop]()
        self.behind = 0
        """So many answers are those before the last change."""
        for server in servers:
            self._command(server, "ACL", "SETUSER", USER, "on", "~*", "+@all", ">0")

    async def get_credentials_async(self) -> tuple[str, str]:
        self.questions += 1
        self.loops.add(asyncio.get_running_loop())
        late, self.behind = self.behind > 0, max(0, self.behind - 1)
        return USER, str(self.number - late)

    def rotate(self, *, cut: bool = False) -> None:
        """Change the password; with `cut`, close the connections, as a service does when a token ends."""
        self.number += 1
        for server in self.servers:
            self._command(server, "ACL", "SETUSER", USER, "resetpass", f">{self.number}")
            if cut:
                self._command(server, "CLIENT", "KILL", "USER", USER)

    def _command(self, server: Server, *words: str) -> object:
        with redis.Redis(port=server.port, password=self.password, decode_responses=True) as client:
            run = cast("Callable[..., object]", client.execute_command)  # pyright: ignore[reportUnknownMemberType]
            return run(*words)

    def calls(self, name: str) -> int:
        """How often the first server has run a command."""
        stats = self._command(self.servers[0], "INFO", "commandstats")
        assert isinstance(stats, dict)
        return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])


@pytest.fixture(params=["redis", "valkey"])
def provider(request: pytest.FixtureRequest, start_server: StartServer) -> Rotating:
    return Rotating(start_server(request.param))


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def opened(clock: MovedClock, namespace: str) -> AsyncGenerator[Callable[[Rotating], Any]]:
    async with AsyncExitStack() as cleanup:

        async def open_one(provider: Rotating) -> LuaStore:
            url = provider.servers[0].url
            store = lua_store(
                url, namespace=namespace, clock=clock, limits=StoreLimits(), retry_for=IN_TIME, credentials=provider
            )
            cleanup.push_async_callback(store.close)
            await store.open()
            return store

        yield open_one


async def test_an_open_connection_signs_in_again_when_the_password_changes(
    provider: Rotating, clock: MovedClock, opened: Callable[[Rotating], Any]
) -> None:
    store = await opened(provider)
    liveness = store.liveness()
    await liveness.open()
    renewal = {"ttl_us": 60_000_000, "running": 0, "count": 0, "fences_digest": 0}
    try:
        named, signed_in = provider.calls("client|setname"), provider.calls("auth")
        clock.moved += credentials_module.ASK_EVERY
        asked = provider.questions
        await store.health()
        await until(lambda: provider.questions > asked)
        await asyncio.gather(store.health(), liveness.renew("nobody", **renewal))
        assert provider.calls("auth") == signed_in, "it signed in again with the same password"

        provider.rotate()
        clock.moved += credentials_module.ASK_EVERY
        await store.health()
        await until(lambda: provider.questions > asked + 1)
        await store.health()
        await liveness.renew("nobody", **renewal)
        assert provider.calls("auth") == signed_in + 2
        assert provider.calls("client|setname") == named, "it opened another connection"
    finally:
        await liveness.close()


async def test_a_refused_answer_asks_once_more(
    provider: Rotating, clock: MovedClock, opened: Callable[[Rotating], Any]
) -> None:
    """A cache of the provider can be behind the server."""
    store = await opened(provider)
    provider.rotate(cut=True)
    await store.health()
    assert provider.questions == 2

    provider.rotate()
    clock.moved += credentials_module.ASK_EVERY
    await store.health()
    await until(lambda: provider.questions == 3)
    provider.rotate()
    await store.health()
    assert provider.questions == 4, "an open connection was refused, and did not ask once more"

    provider.rotate(cut=True)
    provider.behind = 100
    with pytest.raises(StoreCredentialsError, match=f"refused user '{USER}' of the provider") as refused:
        await store.health()
    assert provider.questions == 5
    assert ":4" not in str(refused.value)
    provider.behind = 0
    await store.health()


async def double(n: int) -> int:
    return 2 * n


DOUBLE = Job("double", double)


@pytest.mark.parametrize("apart", [False, True], ids=["one server", "a coordinator apart"])
async def test_a_node_works_while_its_password_changes(
    provider: Rotating, apart: bool, start_server: StartServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs, its lease and its leadership go on; only its own event loop asks the provider."""
    monkeypatch.setattr(credentials_module, "ASK_EVERY", 0.1)
    other = Rotating(start_server("redis")) if apart else None
    provider.servers = (*provider.servers, *(other.servers if other is not None else ()))
    coordinator = other.servers[0].url if other is not None else None
    node = Node(
        provider.servers[0].url,
        jobs=[DOUBLE],
        coordinator=coordinator,
        namespace=namespace,
        credentials=provider,
        lease_ttl=5,
    )
    async with node, asyncio.timeout(PATIENCE):
        await until(lambda: node.is_leader)
        incarnation, running = node.incarnation, list[Any]()
        for number in range(8):
            provider.rotate(cut=number % 2 == 1)
            running += [await node.schedule(DOUBLE, 20 * number + more) for more in range(20)]
            await asyncio.sleep(0.3)
        assert [await one.result(timeout=IN_TIME) for one in running] == [2 * n for n in range(len(running))]
        assert node.incarnation == incarnation
        await until(lambda: node.is_leader)
    assert provider.loops == {asyncio.get_running_loop()}
    assert provider.questions > 8


async def test_a_coordinator_alone_gets_the_credentials(provider: Rotating, tmp_path: Path, namespace: str) -> None:
    url = provider.servers[0].url
    node = Node(f"sqlite://{tmp_path}/jobs.db", coordinator=url, namespace=namespace, credentials=provider)
    async with node, asyncio.timeout(PATIENCE):
        await until(lambda: node.is_leader)
        provider.rotate(cut=True)
        signed_in = provider.calls("auth")
        # a refused AUTH counts as a call, too, and the node leads on until the end of its trust
        await until(lambda: node.is_leader and provider.questions > 1 and provider.calls("auth") > signed_in + 1)
        assert provider.questions == 2


async def works(url: str, provider: Rotating, namespace: str) -> None:
    async with Node(url, jobs=[DOUBLE], namespace=namespace, credentials=provider) as node:
        for number in range(3):
            assert await (await node.schedule(DOUBLE, number)).result(timeout=IN_TIME) == 2 * number
            provider.rotate(cut=True)


async def test_the_members_of_a_cluster_get_the_credentials(server_cluster: ServerCluster, namespace: str) -> None:
    await works(server_cluster.url, Rotating(*server_cluster.nodes), namespace)


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_the_primary_behind_sentinels_gets_the_credentials(kind: ServerKind, namespace: str) -> None:
    """The sentinels have their own in the URL."""
    with WatchedServers(kind, replicas=0, sentinels=1) as watched:
        url = watched.url.replace(f":{PASSWORD}@", "")
        await works(url, Rotating(*watched.servers, password=PASSWORD), namespace)


async def test_a_provider_that_fails_at_the_start_is_an_outage(start_server: StartServer, namespace: str) -> None:
    class Failing(CredentialProvider):
        async def get_credentials_async(self) -> tuple[str]:
            raise RuntimeError("no token")

    node = Node(start_server("redis").url, namespace=namespace, credentials=Failing(), store_retry=0)
    with pytest.raises(StoreUnavailableError, match=r"provider of credentials failed: RuntimeError\('no token'\)"):
        await node.start()
