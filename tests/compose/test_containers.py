"""Servers of tests in containers, as on a machine that has an engine and not the servers."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from support import postgres
from support.etcd import EtcdServer
from support.servers import SERVERS, MissingServerError, ServerCluster, ServerKind, ServerProcess
from support.stack import require_engine

pytestmark = pytest.mark.compose


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the servers of the machine."""
    require_engine()

    def missing(_kind: type[Any]) -> Path:
        raise MissingServerError("hidden")

    for kind in (*SERVERS.values(), EtcdServer):
        monkeypatch.setattr(kind, "binary", classmethod(missing))
    monkeypatch.setattr(postgres, "programs", lambda: missing(ServerProcess))


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_server_in_a_container_can_be_killed_paused_and_restarted(kind: ServerKind) -> None:
    with SERVERS[kind](appendonly=True, config=("--appendfsync", "always")) as server:
        assert server.command("SET", "kept", "1")
        server.pause()
        with redis.Redis(port=server.port, socket_timeout=0.5) as client, pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert server.command("GET", "kept") == "1"
        server.kill()
        assert not server.child.running
        server.start()
        assert server.command("GET", "kept") == "1"
        server.restart()
        assert server.command("GET", "kept") == "1"


def test_a_cluster_in_containers_is_whole() -> None:
    with ServerCluster("valkey") as cluster:
        assert "cluster_state:ok" in str(cluster.nodes[0].command("CLUSTER", "INFO"))


def test_etcd_in_a_container_keeps_what_was_written() -> None:
    with EtcdServer() as server:
        server.call("kv/put", key="a2V5", value="dmFsdWU=")
        server.kill()
        server.start()
        assert server.call("kv/range", key="a2V5")["kvs"][0]["value"] == "dmFsdWU="


def test_postgresql_in_a_container_takes_rows(tmp_path: Path) -> None:
    with postgres.running_postgres(tmp_path / "output") as host, postgres.new_database(host) as database:
        assert not [*host.glob("data*")], "the data are in the container"
        with psycopg.connect(database.conninfo) as connection:
            connection.execute("CREATE TABLE one AS SELECT 1 AS number")
            assert connection.execute("SELECT number FROM one").fetchone() == (1,)
    assert not host.exists()


def test_a_container_cannot_lose_its_power() -> None:
    with pytest.raises(MissingServerError, match="power"):
        SERVERS["redis"](traced=True)
