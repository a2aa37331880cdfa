"""`jobd run` as its users see it: it serves, drains, reloads, and says in one line why it cannot."""

import json
import signal
import socket
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest

from peerjob import Client, Instance, Node, Role, State, UnauthenticatedError
from peerjob.cli.daemon.tokens import create
from peerjob.model.rights import Rights
from support.division import in_matrix
from support.etcd import EtcdServer
from support.jobd import READY, Jobd, target
from support.servers import Server, ServerProcess
from support.waiting import PATIENCE, until

TERM = signal.SIGTERM


@pytest.fixture(params=["redis", in_matrix("etcd")])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    found: ServerProcess = request.getfixturevalue(f"{request.param}_server")
    return found


def onlooker(url: str, namespace: str) -> Node:
    return Node(url, namespace=namespace, workers=0, name="onlooker", allow_unknown=True)


async def runs(instance: Instance[Any]) -> None:
    async def look() -> bool:
        return (await instance.refresh()).state is State.PROCESSING

    await until(look)


async def test_clients_reach_it_and_it_runs_what_they_schedule(
    jobd: Jobd, server: ServerProcess, namespace: str
) -> None:
    child = jobd.run("--store", server.url, "--namespace", namespace, "--name", "one")

    async with Client(target(child)) as client:
        instance = await client.schedule("double", 21)
        assert await instance.result(timeout=PATIENCE) == 42
        assert [node.name for node in await client.nodes()] == ["one"]

    assert child.terminate() == 0


async def test_collections_of_garbage_pass_over_what_was_there_at_the_start(
    jobd: Jobd, redis_url: str, namespace: str
) -> None:
    code = "def count() -> int:\n    return gc.get_freeze_count()\n\njob = Job('count', count)\n"
    code = f"import gc\nfrom peerjob import Job\n\n{code}"
    jobd.module.write_text(code)
    jobd.run("--store", redis_url, "--namespace", namespace)
    async with onlooker(redis_url, namespace) as client:
        instance = await client.schedule("count")
        assert await instance.result(timeout=PATIENCE) > 10_000


async def test_it_lets_running_jobs_end_and_leaves_the_others(
    jobd: Jobd, server: ServerProcess, namespace: str, tmp_path: Path
) -> None:
    child = jobd.run("--store", server.url, "--namespace", namespace, "--workers", "1", "--grace", "60s")
    async with onlooker(server.url, namespace) as client:
        running = await client.schedule("held", str(tmp_path / "go"))
        await runs(running)
        queued = await client.schedule("double", 1)

        child.signal(TERM)
        await child.line("SIGTERM: running jobs have 60 s")
        (tmp_path / "go").touch()

        assert await child.exit() == 0
        assert (await running.refresh()).state is State.COMPLETED
        assert (await queued.refresh()).state is State.SCHEDULED


async def test_a_second_signal_cancels_what_runs_and_hands_it_back(
    jobd: Jobd, server: ServerProcess, namespace: str, tmp_path: Path
) -> None:
    child = jobd.run("--store", server.url, "--namespace", namespace, "--grace", "100s")
    async with onlooker(server.url, namespace) as client:
        running = await client.schedule("held", str(tmp_path / "never"))
        await runs(running)

        child.signal(TERM)
        await child.line("SIGTERM: running jobs have")
        child.signal(TERM)

        assert await child.exit() == 128 + TERM
        await running.refresh()
        assert (running.state, running.crashes) == (State.SCHEDULED, 0)


async def test_a_hangup_picks_up_new_jobs_and_drops_those_that_are_gone(
    jobd: Jobd, redis_url: str, namespace: str
) -> None:
    child = jobd.run("--store", redis_url, "--namespace", namespace)
    async with Client(target(child)) as client:
        assert await (await client.schedule("double", 4)).result(timeout=PATIENCE) == 8
        changed = jobd.module.read_text().replace("2 * x", "20 * x").replace('Job("held", held)', 'Job("kept", held)')
        jobd.module.write_text(changed)

        child.signal(signal.SIGHUP)
        await child.line(r"reloaded the job modules: 2 kind\(s\); new: kept; removed: held")

        assert await (await client.schedule("double", 4)).result(timeout=PATIENCE) == 80

        async def is_published() -> bool:
            """A removed kind is listed as that of another node, until the store has the new kinds of this one."""
            return [job.kind for job in await client.registered_jobs()] == ["double", "kept"]

        await until(is_published)


async def test_a_hangup_with_a_broken_module_changes_nothing(jobd: Jobd, redis_url: str, namespace: str) -> None:
    child = jobd.run("--store", redis_url, "--namespace", namespace)
    async with Client(target(child)) as client:
        jobd.module.write_text("def broken(:\n")

        child.signal(signal.SIGHUP)
        await child.line(r"the job modules stay as they were: .*jobs\.py, line 1")

        assert await (await client.schedule("double", 5)).result(timeout=PATIENCE) == 10
    assert child.terminate() == 0


def test_prometheus_can_scrape_the_state_of_the_node(jobd: Jobd) -> None:
    child = jobd.run("--metrics-compat", "--workers", "3")

    with urllib.request.urlopen(child.wait_for(r"metrics are at (\S+)")[1], timeout=PATIENCE) as answer:
        shown = answer.read().decode()

    assert "peerjob_workers 3.0" in shown
    assert "go_job_workers 3.0" in shown


def test_the_log_is_json_when_asked(jobd: Jobd) -> None:
    child = jobd.run("--log-format", "json", "--name", "one")
    assert child.terminate() == 0

    lines = [json.loads(line) for line in child.lines]
    assert {line["node"] for line in lines} == {"one"}
    assert any(line["message"].startswith(READY) and line["level"] == "info" for line in lines)


ALIKE = pytest.mark.matrix("other settings that are refused stay in make test")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["shop.nope"], 2, "there is no shop.nope in"),
        pytest.param(["shop"], 2, "a module with jobs", marks=ALIKE),
        ([], 2, "--workers 0"),
        (["shop.jobs", "--nope"], 2, "--nope"),
        pytest.param(["shop.jobs", "--timezone", "Mars/Base"], 2, "Mars/Base", marks=ALIKE),
        pytest.param(["shop.jobs", "--lease-ttl", "1ms"], 2, "1 second or more", marks=ALIKE),
        (["shop.jobs", "--listen", "0.0.0.0:0"], 2, "--insecure"),
        pytest.param(["shop.jobs", "--tls-cert", "x.pem"], 2, "--tls-key", marks=ALIKE),
        pytest.param(["shop.jobs", "--tokens-file", "none"], 2, "none", marks=ALIKE),
        (["shop.jobs", "--listen", "off", "--store", "redis://u:hidden@127.0.0.1:1"], 4, "u:***@127.0.0.1:1"),
    ],
)
def test_a_failed_start_is_reported_in_one_line(jobd: Jobd, arguments: list[str], status: int, message: str) -> None:
    child = jobd.launch("run", *arguments, env={"PEERJOB_METRICS_LISTEN": "off"})

    assert child.wait() == status
    (line,) = child.lines
    assert line.startswith("jobd: ")
    assert message in line
    assert "hidden" not in line


@pytest.mark.parametrize("option", ["--listen", "--metrics-listen"])
def test_a_port_in_use_is_reported_in_one_line(jobd: Jobd, option: str) -> None:
    others = {"--listen": "127.0.0.1:0", "--metrics-listen": "127.0.0.1:0"}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        options = [word for pair in (others | {option: address}).items() for word in pair]
        child = jobd.launch("run", "shop.jobs", *options)

        assert child.wait() == 2

    *log, line = child.lines
    assert all(" INFO " in logged for logged in log)
    assert line.startswith("jobd: ")
    assert address in line
    assert "no other program listens on" in line
    assert "--listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0" in line


def test_options_come_from_flags_then_the_environment_then_a_file(jobd: Jobd, redis_server: Server) -> None:
    namespaces = [f"test-{uuid.uuid4().hex[:12]}" for _ in range(2)]
    (jobd.folder / "url").write_text(f"{redis_server.url}\n")
    (jobd.folder / "jobd.toml").write_text(
        f'store-file = "url"\nnamespace = "{namespaces[0]}"\nworkers = 3\nname = "of-the-file"\n'
        '[log]\nformat = "json"\n'
    )
    env = {"PEERJOB_JOBD_CONFIG": "jobd.toml", "PEERJOB_WORKERS": "5", "PEERJOB_NAMESPACE": namespaces[1]}

    child = jobd.run("--workers", "7", env=env)

    started = json.loads(next(line for line in child.lines if "worker(s)" in line))
    assert started["message"] == f"node 'of-the-file' runs 7 worker(s) on {redis_server.url}"
    assert child.terminate() == 0
    assert redis_server.command("KEYS", f"{{peerjob:{namespaces[0]}}}:*") == []
    assert redis_server.command("KEYS", f"{{peerjob:{namespaces[1]}}}:*") != []


def test_a_wrong_value_in_a_file_is_reported_with_its_place(jobd: Jobd) -> None:
    (jobd.folder / "jobd.toml").write_text('workers = "many"\n')
    child = jobd.launch("run", "shop.jobs", "--config", "jobd.toml")

    assert child.wait() == 2
    (line,) = child.lines
    assert "--workers" in line
    assert "in the file of --config" in line


def test_etcd_elects_beside_another_store(jobd: Jobd, redis_url: str, etcd_server: EtcdServer, namespace: str) -> None:
    child = jobd.run("--store", redis_url, "--coordinator", etcd_server.url, "--namespace", namespace)

    child.wait_for(r"leads in term \d+ \(etcd:")
    assert child.terminate() == 0


async def test_a_hangup_takes_the_tokens_as_they_are_now(jobd: Jobd) -> None:
    first = create(jobd.folder / "tokens", Rights(role=Role.READER), "")
    child = jobd.run("--tokens-file", "tokens")
    async with Client(target(child), token=first) as client:
        assert len(await client.nodes()) == 1
        (jobd.folder / "tokens").write_text("no file of tokens")

        child.signal(signal.SIGHUP)
        await child.line("the tokens stay as they were: .*line 1")
        assert len(await client.nodes()) == 1
        (jobd.folder / "tokens").write_text("")
        jobd.module.write_text("def broken(:\n")  # a token is withdrawn all the same

        child.signal(signal.SIGHUP)
        await child.line("reloaded the tokens: 0")

        with pytest.raises(UnauthenticatedError):
            await client.nodes()


async def test_a_hangup_reaches_bodies_in_processes(jobd: Jobd) -> None:
    jobd.module.write_text(jobd.module.read_text().replace("double)", 'double, run_in="process")'))
    child = jobd.run("--workers", "1")
    async with Client(target(child)) as client:
        assert await (await client.schedule("double", 4)).result(timeout=PATIENCE) == 8
        jobd.module.write_text(jobd.module.read_text().replace("2 * x", "200 * x"))

        child.signal(signal.SIGHUP)
        await child.line("reloaded the job modules")

        assert await (await client.schedule("double", 4)).result(timeout=PATIENCE) == 800
