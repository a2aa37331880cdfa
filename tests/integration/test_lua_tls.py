"""Redis and Valkey with TLS: each connection of a store follows its URL."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import Candidate
from peerjob.testing.factories import LONG_TTL_US
from support.etcd import Certificates
from support.lua_site import Site
from support.servers import ServerKind, StartServer, free_port, tls_scheme


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
