"""Redis and Valkey behind sentinels: nodes follow the primary, and no accepted job is lost."""

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest

from peerjob import Instance, Job, Node
from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreCommandError, StoreCredentialsError, StoreError, StoreUnavailableError
from peerjob.model.findings import Severity
from peerjob.store.drivers import diagnose
from peerjob.store.lua.client.redis_driver import RedisDriver
from support.etcd import Certificates
from support.lua_site import Site
from support.sentinels import NAME, PASSWORD, SENTINEL_PASSWORD, WatchedServers
from support.servers import ServerKind, free_port
from support.waiting import IN_TIME, PATIENCE, until

logger = logging.getLogger(__name__)


async def double(n: int) -> int:
    return 2 * n


DOUBLE = Job("double", double)


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[WatchedServers]:
    kind, replicas, sentinels = request.param
    with WatchedServers(kind, replicas=replicas, sentinels=sentinels) as servers:
        yield servers


@pytest.mark.parametrize(
    "watched", [("redis", 2, 3), ("valkey+glide", 2, 3)], indirect=True, ids=["redis", "valkey+glide"]
)
async def test_each_accepted_job_completes_after_the_primary_is_killed(watched: WatchedServers, namespace: str) -> None:
    url = watched.with_options("durability=replicas:1&durability_timeout=1s")
    accepted: list[Instance[Any]] = []
    before, after = 100, 100
    async with (
        Node(url, jobs=[DOUBLE], workers=8, name="worker", namespace=namespace),
        Node(url, jobs=[DOUBLE], workers=0, name="client", namespace=namespace) as client,
    ):

        async def accept(count: int) -> None:
            goal = len(accepted) + count
            while len(accepted) < goal:
                accepted.append(await client.schedule(DOUBLE, len(accepted)))

        findings = await diagnose(url, namespace=namespace, clock=SystemClock())
        told = [finding for finding in findings if finding.subject in ("sentinels", "failover")]
        assert [finding.verdict for finding in told] == [Severity.OK], told

        await accept(before)
        killed = watched.primary()
        killed.kill()
        began = time.monotonic()
        await accept(1)
        recovered = time.monotonic() - began
        await accept(after)
        await until(lambda: asyncio.to_thread(lambda: watched.primary() is not killed))
        results = [await one.result(timeout=IN_TIME) for one in accepted]
    logger.info("recovered after %.2f s; %d accepted, %d completed", recovered, len(accepted), len(results))
    assert results == [2 * n for n in range(before + after + 1)]


@pytest.mark.parametrize("watched", [("redis", 1, 1)], indirect=True, ids=["redis"])
async def test_a_primary_that_hangs_is_left_when_the_sentinels_say_so(
    watched: WatchedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GLIDE notices a hanging server itself, with or without the message of a sentinel."""
    # only the message of a sentinel ends a call
    monkeypatch.setitem(cast("Any", RedisDriver.__init__).__kwdefaults__, "call_timeout", PATIENCE)
    async with AsyncExitStack() as cleanup, asyncio.timeout(IN_TIME):
        here = Site(watched.servers[0], cleanup)
        store = await here.open(url=watched.url)
        peer = await here.join(store)
        assert (await peer.claim()).claims == ()
        hints = asyncio.create_task(store.next_hints(peer.incarnation, PATIENCE))
        watched.primary().pause()

        batch = here.make.instances(3)
        await store.enqueue(batch)
        assert {claim.id for claim in await peer.take()} == {one.id for one in batch}
        hints.cancel()


@pytest.mark.parametrize("kind", ["valkey", "valkey+glide"])
async def test_what_is_wrong_with_sentinels_is_told_at_once(
    kind: ServerKind, signed: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the one sentinel that exists may answer late
    monkeypatch.setattr("peerjob.store.lua.client.sentinel.ASK_TIMEOUT", PATIENCE)
    with WatchedServers(kind, replicas=0, sentinels=1, tls=signed) as watched:
        async with AsyncExitStack() as cleanup, asyncio.timeout(IN_TIME):
            here = Site(watched.servers[0], cleanup)
            # two of the three sentinels do not exist
            url = watched.url.replace(f"/{NAME}", f",127.0.0.1:{free_port()},127.0.0.1:{free_port()}/{NAME}")
            await (await here.open(url=url)).enqueue(here.make.instances(1))
            findings = await diagnose(url, namespace=here.namespace, clock=SystemClock())
            told = {finding.subject: (finding.verdict, finding.text) for finding in findings}
            assert told["sentinels"][0] is Severity.FAIL
            assert re.match(
                r"1 of 3 answer; the primary is 127\.0\.0\.1:\d+, with 0 replica\(s\): ", told["sentinels"][1]
            )
            assert told["failover"][0] is Severity.WARN
            with pytest.raises(StoreError, match="monitors no primary with the name 'other'"):
                await here.open(url=watched.url.replace(f"/{NAME}", "/other"))
            with pytest.raises(StoreCredentialsError, match=r"the sentinel 127\.0\.0\.1:\d+ of .* refused") as refused:
                await here.open(url=watched.url.replace(SENTINEL_PASSWORD, "guess"))
            assert "guess" not in str(refused.value)
            with pytest.raises(StoreCredentialsError, match="refused user 'default'"):
                await here.open(url=watched.url.replace(PASSWORD, "guess"))
            server = watched.url.replace(f":{watched.sentinels[0].port}/", f":{watched.servers[0].tls_port}/")
            with pytest.raises(StoreCommandError, match="is not a sentinel"):
                await here.open(url=server.replace(SENTINEL_PASSWORD, PASSWORD))
            plain = watched.url.replace("valkeys", "valkey", 1).replace(f"&ca_certs={signed.ca}", "")
            with pytest.raises(StoreUnavailableError, match="no sentinel answers: 127"):
                await here.open(url=plain, retry_for=0)
