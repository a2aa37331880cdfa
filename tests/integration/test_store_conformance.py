"""Every store keeps the contract, on real servers and real time."""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.store import LuaStore
from peerjob.testing.factories import Peer
from peerjob.testing.store_conformance import KeyedConformance, StoreConformance
from peerjob.testing.store_conformance.election import ElectionRules
from peerjob.testing.store_conformance.hints import HintRules
from peerjob.testing.store_conformance.idempotency import IdempotencyRules
from peerjob.testing.store_conformance.liveness import LivenessRules
from peerjob.testing.store_conformance.ownership import OwnershipRules
from peerjob.testing.store_conformance.suite import StoreSuite
from support.consistency import kv_rules, lua_rules
from support.etcd import EtcdCluster
from support.leftovers import leftovers_of, traces_of
from support.servers import GlideServer, RedisServer, Server, ValkeyServer
from support.synced import seen_commits
from support.waiting import until


@pytest.fixture(scope="module")
def disk_server() -> Iterator[Server]:
    with RedisServer(appendonly=True, config=("--appendfsync", "always")) as server:
        yield server


@pytest.fixture(scope="module")
def replicated_server() -> Iterator[Server]:
    with GlideServer() as primary, ValkeyServer(config=("--replicaof", f"127.0.0.1 {primary.port}")):
        assert primary.command("WAIT", 1, 50_000) == 1
        yield primary


@pytest.mark.usefixtures("patient")
class OnUrl(StoreSuite):
    """Stores that a URL names."""

    url: str

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        return open_store(self.url, namespace=namespace, clock=SystemClock(), limits=limits)

    async def open(self, limits: StoreLimits | None = None, namespace: str | None = None) -> Store:
        store = await super().open(limits, namespace)
        self._cleanup.push_async_callback(self._assert_consistent, store)
        return store

    async def _assert_consistent(self, store: Store) -> None:
        """Assert that each index and count fits to the records."""
        if isinstance(store, LuaStore):
            assert await lua_rules.inconsistent(store) == []
            await store.wipe()  # otherwise the check of each later rule scans these keys, too
        if isinstance(store, KVStore):
            assert await kv_rules.inconsistent(store) == []

    async def leftovers(self, store: Store) -> Sequence[str]:
        return await leftovers_of(store)

    async def traces(self, store: Store, *ended: Peer) -> Sequence[str]:
        return await traces_of(store, [peer.incarnation for peer in ended])


class Conformance(OnUrl, StoreConformance):
    """The suite over the store that a URL names."""

    renewals_tell = True


class TestMemory(OnUrl, HintRules, LivenessRules):
    """The memory store on the system's clock, with the rules that wait; the unit tests have all rules."""

    conformance_on = "memory-real-time"

    @pytest.fixture(autouse=True)
    def _url(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}"


class TestSqlite(Conformance):
    """A file, without waits for the disk."""

    conformance_on = "sqlite"

    @pytest.fixture(autouse=True)
    def _url(self, sqlite_url: str) -> None:
        self.url = sqlite_url


class TestSyncedSqlite(OnUrl, OwnershipRules, IdempotencyRules, ElectionRules):
    """A file that waits for the disk, with the rules that several processes may break.

    Each commit that keeps something must wait.
    """

    conformance_on = "sqlite-synced"

    @pytest.fixture(autouse=True)
    def _url(self, sqlite_file: Path) -> Iterator[None]:
        self.url = f"sqlite://{sqlite_file}"
        with seen_commits() as seen:
            yield
        assert [one for one in seen if one.kept and not one.waited] == []


class TestRedis(Conformance):
    """A Redis server."""

    conformance_on = "redis"
    claims_wait = True

    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url


class TestKeyedRedis(OnUrl, KeyedConformance):
    """A Redis server, with a wide key limit on each instance."""

    conformance_on = "redis-keyed"
    renewals_tell = True
    claims_wait = True

    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url


class TestValkey(Conformance):
    """A Valkey server, without valkey-glide."""

    conformance_on = "valkey"
    claims_wait = True

    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


class TestGlide(Conformance):
    """A Valkey server, through valkey-glide."""

    conformance_on = "glide"
    claims_wait = True

    @pytest.fixture(autouse=True)
    def _url(self, glide_url: str) -> None:
        self.url = glide_url

    async def wait_given_up(self) -> None:
        # GLIDE closes a connection a moment after `close()`; a hint that the server sends on it until then is lost
        async with Redis.from_url(self.url.replace("valkey+glide", "redis", 1)) as redis:

            async def none_waits() -> bool:
                clients: dict[str, Any] = await redis.info("clients")
                return bool(clients["blocked_clients"] == 0)

            await until(none_waits)


class TestEtcd(Conformance):
    """An etcd of one member."""

    conformance_on = "etcd"
    short_ttl = 1.0

    @pytest.fixture(autouse=True)
    def _url(self, etcd_url: str) -> None:
        self.url = etcd_url


class TestEtcdCluster(Conformance):
    """An etcd of three members."""

    conformance_on = "etcd-cluster"
    short_ttl = 2.0

    @pytest.fixture(autouse=True)
    def _url(self, etcd_cluster: EtcdCluster) -> None:
        self.url = etcd_cluster.url


class TestConfirmedByDisk(Conformance):
    """A Redis that confirms a step when its disk has it."""

    conformance_on = "redis-confirmed-by-disk"
    claims_wait = True

    @pytest.fixture(autouse=True)
    def _url(self, disk_server: Server) -> None:
        self.url = f"{disk_server.url}?durability=aof"


class TestConfirmedByReplica(Conformance):
    """A Valkey, through valkey-glide, that confirms a step when a replica has it."""

    conformance_on = "glide-confirmed-by-replica"
    claims_wait = True

    @pytest.fixture(autouse=True)
    def _url(self, replicated_server: Server) -> None:
        self.url = f"{replicated_server.url}?durability=replicas:1"
