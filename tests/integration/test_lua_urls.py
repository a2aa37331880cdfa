"""Unix sockets, several members of a cluster, databases and the options of TLS: each with a real server."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from peerjob import Job, Node
from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreUnavailableError
from peerjob.store.drivers import diagnose
from peerjob.store.lua.client.redis_driver import MAX_CALLS
from support.etcd import Certificates, other_ca
from support.lua_site import MakeSite, Site, with_each_driver, with_each_driver_to_a_cluster
from support.servers import ServerCluster, ServerKind, StartServer, free_port, tls_scheme
from support.waiting import IN_TIME, PATIENCE


async def double(n: int) -> int:
    return 2 * n


async def works(url: str, namespace: str) -> None:
    """Run a job on a node: calls, hints, the lease and the leadership have connections of their own."""
    job = Job("double", double)
    async with Node(url, jobs=[job], namespace=namespace, name="one") as node:
        assert await (await node.schedule(job, 21)).result(timeout=IN_TIME) == 42


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_unix_socket_leads_to_the_server(
    kind: ServerKind, start_server: StartServer, tmp_path: Path, namespace: str
) -> None:
    path = tmp_path / "a socket"
    server = start_server(kind, config=("--unixsocket", str(path)))
    server.command("CONFIG", "SET", "requirepass", "secret")
    quoted = str(path).replace(" ", "%20")
    await works(f"{kind}+unix://:secret@{quoted}?db=3", namespace)
    assert server_keys(server.port, 3)
    assert not server_keys(server.port, 0)
    if kind == "redis":
        await works(f"unix://:secret@{quoted}", namespace)
    findings = await diagnose(f"{kind}+unix://:secret@{quoted}", namespace=namespace, clock=SystemClock())
    assert any(finding.text.startswith(kind) for finding in findings)


def server_keys(port: int, db: int) -> int:
    with redis.Redis(port=port, db=db, password="secret") as client:
        size = client.dbsize()
    assert isinstance(size, int)
    return size


async def test_a_store_that_is_opened_again_keeps_its_connections(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    await store.close()
    await store.open()

    def connected() -> int:
        info = here.server.command("INFO", "stats")
        assert isinstance(info, dict)
        return int(info["total_connections_received"])

    before = connected()
    for _ in range(10):
        await store.health()
    assert connected() - before == 1  # the one that asks


async def test_a_call_that_cannot_be_sent_takes_no_room(site: MakeSite) -> None:
    """A program may try more such calls than can run at the same time."""
    store = await site().open()
    for _ in range(MAX_CALLS):
        with pytest.raises(UnicodeEncodeError):
            await store.remove_schedule("half of a pair: \ud800", request="r")
    async with asyncio.timeout(PATIENCE):
        await store.health()


@with_each_driver
async def test_a_database_is_chosen(site: MakeSite, namespace: str) -> None:
    here = site()
    await works(f"{here.server.url}?db=5", namespace)
    assert here.all_keys() == set()
    info = here.server.command("INFO", "keyspace")
    assert isinstance(info, dict)
    assert list(info) == ["db5"]


@with_each_driver_to_a_cluster
async def test_any_member_of_a_cluster_leads_to_the_others(
    server_cluster: ServerCluster, as_url: Callable[[str], str], namespace: str
) -> None:
    kind, closed_port = server_cluster.nodes[0].kind, free_port()
    for member in server_cluster.nodes[1:]:
        url = as_url(f"{kind}://127.0.0.1:{closed_port},127.0.0.1:{member.port}?cluster=true")
        await works(url, namespace)


@pytest.mark.parametrize("kind", ["redis", "valkey+glide"])
async def test_certificates_are_checked_as_the_url_says(
    kind: ServerKind, start_server: StartServer, signed: Certificates, tmp_path: Path, namespace: str
) -> None:
    port = free_port()
    files = ("--tls-cert-file", signed.server_cert, "--tls-key-file", signed.server_key)
    bound = ("--bind", "127.0.0.1", "127.0.0.2", "--tls-port", port)
    config = (*bound, *files, "--tls-ca-cert-file", signed.ca, "--tls-auth-clients", "yes")
    start_server(kind, config=tuple(map(str, config)))
    theirs = f"ssl_certfile={signed.client_cert}&ssl_keyfile={signed.client_key}"
    strange = f"ssl_ca_certs={other_ca(tmp_path)}"

    scheme = tls_scheme(kind)
    await works(f"{scheme}://localhost:{port}?{theirs}&ssl_ca_certs={signed.ca}&ssl_cert_reqs=required", namespace)
    # the certificate is that of 127.0.0.1 and localhost
    elsewhere = f"{scheme}://127.0.0.2:{port}?{theirs}&ssl_ca_certs={signed.ca}"
    # valkey-glide does not have the option, and `valkeys://` does
    await works(f"{elsewhere.replace('+glide', '')}&ssl_check_hostname=false", namespace)
    await works(f"{scheme}://127.0.0.2:{port}?{theirs}&ssl_cert_reqs=none", namespace)
    async with AsyncExitStack() as cleanup:
        for url in (elsewhere, f"{scheme}://localhost:{port}?{theirs}&{strange}"):
            here = Site(start_server(kind), cleanup)
            with pytest.raises(StoreUnavailableError, match=r"(?i)certificate|IP address mismatch"):
                await here.open(url=url, retry_for=0)
