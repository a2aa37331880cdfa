"""Servers, store URLs and namespaces for every test.

One server of each kind serves a whole session (a pytest-xdist worker has its own); tests keep apart by
namespace. A test that breaks its server starts one of its own with `start_server`.
"""

import contextlib
import gc
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar, Unpack

import pytest
from hypothesis import settings as hypothesis_settings

from support.etcd import SHORT_LEASES, Certificates, EtcdCluster, EtcdServer, EtcdSettings, StartEtcd, StartEtcdCluster
from support.etcd_site import EtcdSite
from support.postgres import Database, new_database, running_postgres
from support.servers import (
    SERVERS,
    RedisServer,
    Server,
    ServerCluster,
    ServerKind,
    ServerProcess,
    Settings,
    StartServer,
    ValkeyServer,
    needed,
    through_glide,
)

pytest_plugins = ["support.costs", "support.division"]

# two cores shared with servers and nodes make any deadline a coin toss; CI repeats the same examples
hypothesis_settings.register_profile("peerjob", deadline=None, derandomize="CI" in os.environ)
hypothesis_settings.load_profile("peerjob")

# the output of the commands must not depend on the terminal and the settings of the person who runs the tests
TERMINAL = {"COLUMNS", "LINES", "TERMINAL_WIDTH", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
COLOURS = {"FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS"}
for name in [*os.environ]:
    if name in TERMINAL | COLOURS or name.startswith("PEERJOB_"):
        del os.environ[name]
# gRPC asks a proxy even for this machine; pip, which some tests run, may need theirs
os.environ["no_grpc_proxy"] = "localhost,127.0.0.1,[::1]"  # noqa: SIM112  # gRPC reads no other

MEMORY = Path("/dev/shm")

gc.disable()


def pytest_collection_finish() -> None:
    """Leave the collected tests out of each garbage collection: looking through them took a fifth of the CPU time."""
    gc.enable()
    gc.collect()
    gc.freeze()


Started = TypeVar("Started", Server, ServerCluster, EtcdServer, EtcdCluster)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A shared Redis; not to be stopped, filled up or configured."""
    with _running(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """A shared Valkey; not to be stopped, filled up or configured."""
    with _running(ValkeyServer) as server:
        yield server


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """A shared etcd, which grants leases of one second; not to be stopped, filled up or configured."""
    with _running(lambda: EtcdServer(config=SHORT_LEASES)) as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_file() -> Iterator[Path]:
    """A shared file, in memory where that can be; not to be filled up, replaced or damaged."""
    with tempfile.TemporaryDirectory(prefix="peerjob-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder, "peerjob.db")


@pytest.fixture(scope="session")
def postgres_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The host of a shared PostgreSQL, which is the folder of its socket; not to be stopped."""
    with contextlib.ExitStack() as stack:
        with needed():
            folder = stack.enter_context(running_postgres(tmp_path_factory.mktemp("postgres") / "output"))
        yield folder


@pytest.fixture
def postgres(postgres_host: Path) -> Iterator[Database]:
    """A database of the test's own on the shared PostgreSQL."""
    with new_database(postgres_host) as database:
        yield database


@pytest.fixture
def sqlite_url(sqlite_file: Path) -> str:
    return f"sqlite://{sqlite_file}?sync=normal"


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    return redis_server.url


@pytest.fixture
def valkey_url(valkey_server: Server) -> str:
    return valkey_server.url


@pytest.fixture
def glide_url(valkey_server: Server) -> str:
    """The URL of the shared Valkey, with the scheme that chooses valkey-glide."""
    return through_glide(valkey_server.url)


@pytest.fixture
def etcd_url(etcd_server: EtcdServer) -> str:
    return etcd_server.url


@pytest.fixture(scope="session")
def etcd_cluster() -> Iterator[EtcdCluster]:
    """A shared etcd of three members; not to be stopped, filled up or configured."""
    with _running(EtcdCluster) as cluster:
        yield cluster


@pytest.fixture(scope="session", params=["redis", "valkey"])
def server_cluster(request: pytest.FixtureRequest) -> Iterator[ServerCluster]:
    """A shared cluster of three shards, of each kind in turn."""
    with _running(lambda: ServerCluster(request.param)) as cluster:
        yield cluster


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers that the test may break: `start_server("redis", appendonly=True)`."""
    with contextlib.ExitStack() as servers:

        def start(kind: ServerKind, **settings: Unpack[Settings]) -> Server:
            return servers.enter_context(_running(lambda: SERVERS[kind](**settings)))

        yield start


@pytest.fixture(params=["redis", "valkey", "etcd"])
def durable_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server of the test's own, of each kind in turn, that answers a write only when the write is on disk."""
    if request.param == "etcd":
        with _running(EtcdServer) as server:
            yield server
    else:
        always = ("--appendfsync", "always")
        with _running(lambda: SERVERS[request.param](appendonly=True, config=always)) as server:
            yield server


@pytest.fixture
def start_etcd() -> Iterator[StartEtcd]:
    """Start an etcd that the test may break: `start_etcd(quota=64 << 20)`."""
    with contextlib.ExitStack() as servers:

        def start(**settings: Unpack[EtcdSettings]) -> EtcdServer:
            return servers.enter_context(_running(lambda: EtcdServer(**settings)))

        yield start


@pytest.fixture
def start_etcd_cluster() -> Iterator[StartEtcdCluster]:
    """Start an etcd of three members that the test may break."""
    with contextlib.ExitStack() as clusters:

        def start(**settings: Unpack[EtcdSettings]) -> EtcdCluster:
            return clusters.enter_context(_running(lambda: EtcdCluster(**settings)))

        yield start


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A CA of the module's own, and what it signed."""
    with needed():
        return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def etcd_site() -> AsyncIterator[EtcdSite]:
    """Opens stores and drivers on any etcd."""
    async with contextlib.AsyncExitStack() as cleanup:
        yield EtcdSite(cleanup=cleanup)


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["memory", "redis", "valkey", "etcd"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a store of each kind in turn; the memory store is new and empty."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
        return url
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.url


@contextlib.contextmanager
def _running(make: Callable[[], Started]) -> Generator[Started]:
    with needed():
        server = make()
    try:
        yield server.start()
    finally:
        server.close()
