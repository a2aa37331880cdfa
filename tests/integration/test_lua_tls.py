"""Redis and Valkey with TLS: each connection of a store follows its URL."""

import asyncio
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from peerjob import Job, Node
from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import Candidate
from peerjob.model.record import StoreLimits
from peerjob.store.lua.client.cluster_search import key_slot
from peerjob.store.lua.client.driver import prefix
from peerjob.store.lua.store import lua_store
from peerjob.testing.factories import LONG_TTL_US
from support.etcd import Certificates, other_ca
from support.lua_site import Site
from support.servers import ServerCluster, ServerKind, StartServer, free_port, needed, tls_scheme
from support.waiting import IN_TIME, PATIENCE


@pytest.mark.parametrize("kind", ["redis", "valkey+glide"])
async def test_a_server_that_wants_certificates_is_served_on_each_connection(
    kind: ServerKind, start_server: StartServer, signed: Certificates
) -> None:
    """Many calls at a time, hints, the lease and the leadership each have their own connections."""
    port = free_port()
    files = ("--tls-cert-file", signed.server_cert, "--tls-key-file", signed.server_key)
    config = ("--tls-port", port, *files, "--tls-ca-cert-file", signed.ca, "--tls-auth-clients", "yes")
    async with AsyncExitStack() as cleanup:
        here = Site(start_server(kind, config=tuple(map(str, config))), cleanup)
        trusted = f"{tls_scheme(kind)}://127.0.0.1:{port}?ca_certs={signed.ca}"

        store = await here.open(url=f"{trusted}&cert_file={signed.client_cert}&key_file={signed.client_key}")
        peer = await here.join(store)
        assert (await peer.claim()).claims == ()
        hints = asyncio.create_task(store.next_hints(peer.incarnation, 20))
        batch = here.make.instances(40)
        await asyncio.gather(*(store.enqueue([one]) for one in batch))
        assert [hint.what for hint in await hints] == ["work"]
        claims = await peer.take()
        assert sorted(claim.id for claim in claims) == sorted(one.id for one in batch)
        assert not (await peer.renew(*claims)).dead
        elections = store.elections()
        await elections.open()
        cleanup.push_async_callback(elections.close)
        leader = await elections.campaign(Candidate(incarnation=peer.incarnation, name="node"), ttl_us=LONG_TTL_US)
        assert leader.incarnation == peer.incarnation

        for url in (trusted, f"{kind}://127.0.0.1:{port}"):
            with pytest.raises(StoreUnavailableError):
                await here.open(url=url, retry_for=0)


async def double(n: int) -> int:
    return 2 * n


DOUBLE = Job("double", double)


def tls_config(signed: Certificates) -> list[str]:
    files = ("--tls-cert-file", signed.server_cert, "--tls-key-file", signed.server_key)
    return [str(word) for word in (*files, "--tls-ca-cert-file", signed.ca, "--tls-auth-clients", "yes")]


@pytest.mark.parametrize("kind", ["redis", "valkey+glide"])
async def test_a_cluster_is_searched_with_the_certificates_of_the_url(
    kind: ServerKind, signed: Certificates, tmp_path: Path
) -> None:
    """Each member opens a port with TLS, and the members name these ports to clients with TLS."""
    expired, key = signed.expired()
    with needed(), ServerCluster(kind, tls=tls_config(signed)) as cluster:
        theirs = f"&cert_file={signed.client_cert}&key_file={signed.client_key}"
        names = {key_slot(prefix(name)) // 5462: name for name in (f"tls-{number}" for number in range(100))}
        for name in names.values():
            async with Node(f"{cluster.url}&ca_certs={signed.ca}{theirs}", jobs=[DOUBLE], namespace=name) as node:
                assert await (await node.schedule(DOUBLE, 21)).result(timeout=IN_TIME) == 42
        assert sorted(names) == [0, 1, 2]
        for wrong in (
            f"&ca_certs={signed.ca}",
            f"&ca_certs={signed.ca}&cert_file={expired}&key_file={key}",
            f"&ca_certs={other_ca(tmp_path)}{theirs}",
        ):
            await refused(f"{cluster.url}{wrong}")


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_replica_takes_over_in_a_cluster_with_tls(kind: ServerKind, signed: Certificates) -> None:
    name = next(f"over-{number}" for number in range(1000) if key_slot(prefix(f"over-{number}")) < 5_000)
    with needed(), ServerCluster(kind, replicas=1, tls=tls_config(signed)) as cluster:
        theirs = f"&cert_file={signed.client_cert}&key_file={signed.client_key}"
        async with Node(f"{cluster.url}&ca_certs={signed.ca}{theirs}", jobs=[DOUBLE], namespace=name) as node:
            assert await (await node.schedule(DOUBLE, 1)).result(timeout=IN_TIME) == 2
            cluster.nodes[0].kill()
            # on a busy machine, the members can take long to agree on a replica
            cluster.replicas[0].command("CLUSTER", "FAILOVER", "TAKEOVER")
            assert await (await node.schedule(DOUBLE, 2)).result(timeout=PATIENCE) == 4


@pytest.mark.parametrize("kind", ["redis", "valkey+glide"])
async def test_only_the_authority_of_the_url_is_trusted(
    kind: ServerKind, start_server: StartServer, signed: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine trusts the authority that signed the certificate of the server, and the URL names another one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(signed.ca))
    port = free_port()
    start_server(kind, config=("--tls-port", str(port), *tls_config(signed)))
    theirs = f"cert_file={signed.client_cert}&key_file={signed.client_key}"
    url = f"{tls_scheme(kind)}://127.0.0.1:{port}?{theirs}"
    store = lua_store(url, namespace="any", clock=SystemClock(), limits=StoreLimits())
    await store.open()
    await store.close()
    await refused(f"{url}&ca_certs={other_ca(tmp_path)}", match=r"(?i)certificate")


async def test_the_certificate_is_for_the_name_of_the_host_and_not_for_its_address(
    start_server: StartServer, signed: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address of the name is tried alone; the first one refuses connections here."""

    def found(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        assert host.endswith(".example")
        addresses = ("127.0.0.2", "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    port = free_port()
    cert, key = signed.for_host("store.example")
    files = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", signed.ca)
    start_server("redis", config=("--tls-port", str(port), *map(str, files), "--tls-auth-clients", "no"))
    monkeypatch.setattr(socket, "getaddrinfo", found)
    url = f"rediss://store.example:{port}?ca_certs={signed.ca}"
    store = lua_store(url, namespace="any", clock=SystemClock(), limits=StoreLimits())
    await store.open()
    await store.close()
    await refused(url.replace("store.", "other."), match=r"(?i)certificate")


async def refused(url: str, match: str | None = None) -> None:
    store = lua_store(url, namespace="any", clock=SystemClock(), limits=StoreLimits(), retry_for=0)
    with pytest.raises(StoreUnavailableError, match=match):
        await store.open()


_OPENS = """
import asyncio, sys
from peerjob import Node, StoreUnavailableError

async def main():
    try:
        await Node(sys.argv[1]).start()
    except StoreUnavailableError as error:
        print(error)

asyncio.run(main())
"""


def test_no_connection_waits_for_a_pass_phrase(start_server: StartServer, signed: Certificates, tmp_path: Path) -> None:
    """OpenSSL asks the terminal, or the input of the program, and blocks the event loop until it has an answer."""
    locked, port = tmp_path / "locked.key", free_port()
    encrypt = ("openssl", "pkey", "-in", signed.client_key, "-aes256", "-passout", "pass:secret", "-out", locked)
    subprocess.run(encrypt, check=True, capture_output=True)
    start_server("redis", config=("--tls-port", str(port), *tls_config(signed)))
    url = f"rediss://127.0.0.1:{port}?ca_certs={signed.ca}&cert_file={signed.client_cert}&key_file={locked}"
    program = subprocess.Popen(
        [sys.executable, "-c", _OPENS, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with program:
        try:
            assert program.wait(PATIENCE) == 0
            assert program.stdout is not None
            assert "cannot reach the store" in program.stdout.read()
        finally:
            program.kill()
