"""`jobd demo` as its users see it: it keeps its promises on every store, and leaves nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from peerjob import Node, Query
from support.etcd import EtcdServer
from support.processes import ChildProcess
from support.servers import Server
from support.waiting import IN_TIME, PATIENCE

JOBD = Path(sys.executable).with_name("jobd")
MARK = "PEERJOB_TEST_DEMO"
T = TypeVar("T")
ORDER = 1 + 3 + 1
"""The instances of an order: itself, what it packs, and its mail."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@pytest.fixture
def mark(tmp_path: Path) -> dict[str, str]:
    """An environment that marks the demo and all that it starts, with a folder for temporary files of its own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return {MARK: uuid.uuid4().hex, "TMPDIR": str(folder)}


@pytest.fixture
def start_demo(mark: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., ChildProcess]]:
    """Start the demo with some options, without waiting for its end."""
    started: list[ChildProcess] = []

    def start(*options: str) -> ChildProcess:
        child = ChildProcess([JOBD, "demo", *options], output=tmp_path / "output", env=mark)
        started.append(child)
        return child

    yield start
    for child in started:
        child.close()


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the demo on few files, to its end."""
    return subprocess.run(
        [JOBD, "demo", "--files", "40", *options], capture_output=True, text=True, check=False, timeout=150
    )


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` printed, which has to be all that was printed."""
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def marked(mark: dict[str, str]) -> list[str]:
    """Command lines of the live processes with the mark."""
    wanted = f"{MARK}={mark[MARK]}".encode()
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended meanwhile
            continue
    return found


def nothing_is_left(mark: dict[str, str], *, within: float = 0.0) -> bool:
    """Whether no process and no file is left, now or `within` seconds."""
    deadline = time.monotonic() + within
    while marked(mark) or any(Path(mark["TMPDIR"]).iterdir()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def instances_in(server: Server) -> list[str]:
    """Keys of instances and queues of any demo, in a store that demos have used."""
    keys = server.command("KEYS", "{peerjob:demo-*")
    assert isinstance(keys, list)
    # what is kept of kinds stays until retention removes it
    of_kinds = ("catalogue", "descriptors", "kinds", "sets", "set", "unused", "watching")
    # "gone" remembers for two minutes what was removed
    bookkeeping = ("layout", "req", "charged", "changes", "cancel", "terms", "gone", *of_kinds)
    return [key for key in keys if key.partition("}:")[2].partition(":")[0] not in bookkeeping]


def left_in(server: EtcdServer, namespace: str) -> list[str]:
    """Keys of instances and queues of a demo."""
    bookkeeping: tuple[str, ...] = (
        "layout",
        "journal",
        "charged",
        "changes",
        "head",
        "count",
        "counted",
        "term",
        "leader",
        "catalogue",
        "descriptor",
    )
    # "state" remembers for two minutes what was removed, "ended" which nodes: a live instance is in an index, too
    bookkeeping += ("state", "ended")
    return [key for key in server.keys(f"{namespace}/") if key.split("/")[1] not in bookkeeping]


@pytest.mark.long("waits for two leases to end")
def test_a_killed_leader_and_a_killed_node_lose_nothing() -> None:
    result = result_of(demo("--json"))

    check_killed(result)
    assert result["killed_leader"] != result["killed_node"]
    assert 0 < result["election_seconds"] < IN_TIME


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
def test_a_killed_node_loses_nothing_on_etcd(etcd_server: EtcdServer, namespace: str) -> None:
    check_killed(result_of(demo("--json", "--store", etcd_server.url, "--namespace", namespace)))

    assert left_in(etcd_server, namespace) == []


def check_killed(result: dict[str, Any]) -> None:
    """Every promise of a run of three nodes in which a node is killed."""
    assert result["scheduled"] == result["completed"] == 40 + 3 * ORDER + 6 + 1
    assert 0 <= result["steps_run_again"] <= 3
    assert result["values_accepted_twice"] == 0
    assert (result["failed"], result["lost"], result["double_completions"]) == (0, 0, 0)
    assert result["matches_single_process"] is True
    assert result["held_by_killed_node"] >= 1
    assert 0 < result["recovery_seconds"] < IN_TIME
    assert result["jobs_per_second"] > 0


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
def test_on_memory_one_node_does_it_all() -> None:
    result = result_of(demo("--json", "--store", "memory://", "--nodes", "1"))

    assert result["scheduled"] == result["completed"] == 40 + ORDER + 2
    assert (result["steps_run_again"], result["values_accepted_twice"]) == (0, 0)
    assert result["recovery_seconds"] is None
    assert result["matches_single_process"] is True


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
def test_a_new_file_of_sqlite_is_removed_at_the_end(mark: dict[str, str]) -> None:
    done = subprocess.run(
        [JOBD, "demo", "--files", "20", "--store", "sqlite", "--nodes", "2", "--no-kill", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
        env={**os.environ, **mark},
    )
    assert result_of(done)["passed"]
    assert [*Path(mark["TMPDIR"]).iterdir()] == []


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
def test_no_kill_kills_no_node_and_the_report_is_readable(valkey_url: str) -> None:
    done = demo("--store", valkey_url, "--nodes", "2", "--no-kill", "--workers", "2")

    assert (done.returncode, done.stderr) == (0, "")
    assert "every check passed" in done.stdout
    assert "kill -9" not in done.stdout
    assert "54 of 54, 0 failed" in done.stdout
    assert "steps run more than once: 0; values accepted twice: 0" in done.stdout


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
@linux_only
@pytest.mark.parametrize(("store", "stop"), [("embedded", signal.SIGINT), ("redis", signal.SIGTERM)])
def test_an_interrupted_demo_leaves_nothing(
    stop: signal.Signals,
    store: str,
    start_demo: Callable[..., ChildProcess],
    mark: dict[str, str],
    redis_server: Server,
) -> None:
    running = start_demo(*(("--store", redis_server.url) if store == "redis" else ()))
    running.wait_for("kill -9 of node-")  # half way
    assert len(marked(mark)) >= 3

    running.signal(stop)

    assert running.wait() == 128 + stop
    assert nothing_is_left(mark)
    assert not [line for line in running.lines if "Traceback" in line]
    if store == "redis":
        assert instances_in(redis_server) == []


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
@linux_only
def test_what_a_demo_started_ends_when_the_demo_is_killed(
    start_demo: Callable[..., ChildProcess], mark: dict[str, str]
) -> None:
    running = start_demo()
    running.wait_for("slow 1 is processing on")

    running.kill()

    assert nothing_is_left(mark, within=PATIENCE)


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
@linux_only
def test_a_node_that_dies_unasked_ends_the_demo_with_its_last_words(
    start_demo: Callable[..., ChildProcess], mark: dict[str, str]
) -> None:
    running = start_demo("--no-kill")
    running.wait_for("scheduled")
    [pid] = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        # what it starts bears its command line, too, for a moment
        if f"\nPPid:\t{running.pid}\n" in _read(folder / "status")
        and "\0node\0node-2\0" in _read(folder / "cmdline")
        and mark[MARK] in _read(folder / "environ")
    ]

    os.kill(pid, signal.SIGKILL)

    assert running.wait() == 1
    assert "jobd: node-2 ended by itself with status -9" in running.lines
    assert nothing_is_left(mark)


def test_an_unreachable_store_is_reported_in_one_line() -> None:
    began = time.monotonic()
    done = demo("--store", "redis://127.0.0.1:1", "--json")

    assert done.returncode == 1
    assert time.monotonic() - began < IN_TIME
    assert done.stdout == ""
    assert done.stderr.startswith("jobd: cannot reach the store at redis://127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.matrix("the promises of the demo are those of a node; one run stays in make test")
def test_a_namespace_that_is_in_use_is_refused_and_left_alone(redis_server: Server, namespace: str) -> None:
    async def with_node(act: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        async with Node(redis_server.url, workers=0, namespace=namespace) as node:
            return await act(node)

    asyncio.run(with_node(lambda node: node.schedule("mine", allow_unknown=True)))

    done = demo("--store", redis_server.url, "--namespace", namespace)

    assert done.returncode == 1
    assert f"jobd: namespace '{namespace}' is in use (1 instance, 0 nodes)" in done.stderr
    assert asyncio.run(with_node(lambda node: node.count(Query(kind="mine")))) == 1


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""
