"""`jobd check` as its users see it: its findings, good and bad, with advice for the bad ones."""

import asyncio
import itertools
import json
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from peerjob import Job, Node, SystemClock
from peerjob.cli.daemon.check import examine
from peerjob.cli.daemon.settings import DaemonSettings
from peerjob.model.findings import Severity
from peerjob.store.drivers import diagnose
from support.etcd import StartEtcd
from support.jobd import Jobd
from support.servers import ServerCluster, ServerKind, ServerProcess, StartServer
from support.shifted import ShiftedClock
from support.waiting import until

Findings = dict[str, list[tuple[str, str]]]
"""Subject → (verdict, text) of each finding."""


@pytest.fixture
async def running() -> AsyncIterator[Callable[..., Any]]:
    """Start nodes that end with the test."""
    async with AsyncExitStack() as nodes:

        async def start(url: str, namespace: str, **options: Any) -> Node:
            return await nodes.enter_async_context(Node(url, namespace=namespace, **options))

        yield start


async def check(jobd: Jobd, *options: str, status: int = 0) -> Findings:
    """What `--json` prints; the exit status has to be as expected."""
    child = jobd.launch("check", "--json", *options)
    assert await child.exit() == status, child.lines
    (line,) = child.lines
    found: Findings = {}
    for finding in json.loads(line):
        found.setdefault(finding["subject"], []).append((finding["verdict"], finding["text"]))
    return found


def worst(found: Findings) -> set[str]:
    return {verdict for every in found.values() for verdict, _ in every}


async def test_all_is_well_on_a_durable_server(
    jobd: Jobd, durable_server: ServerProcess, namespace: str, running: Callable[..., Any]
) -> None:
    node: Node = await running(durable_server.url, namespace, name="one", jobs=[Job("other", lambda: None)])
    await until(node.leader)

    found = await check(jobd, "shop.jobs", "--store", durable_server.url, "--namespace", namespace)

    speed = found.pop("speed")  # a warning, on a machine that is busy
    assert "answers in" in speed[0][1]
    found.pop("slow calls", None)  # a machine that stands still makes any call a slow one
    assert worst(found) == {"ok"}, found
    assert found["jobs"] == [("ok", "2 kind(s): double, held")]
    assert found["nodes"] == [("ok", "one; 10 worker(s)")]
    assert found["leader"][0][1].startswith("one, term")
    assert durable_server.kind in found["server"][0][1]


async def test_it_leaves_nothing_behind(
    jobd: Jobd, redis_url: str, namespace: str, running: Callable[..., Any]
) -> None:
    node = await running(redis_url, namespace, name="one")

    await check(jobd, "--store", redis_url, "--namespace", namespace)

    assert [one.name for one in await node.nodes()] == ["one"]


async def test_a_redis_that_may_lose_jobs_is_reported(jobd: Jobd, start_server: StartServer) -> None:
    server = start_server("redis", policy="allkeys-lru", maxmemory="64mb")

    found = await check(jobd, "--store", server.url, status=1)

    assert found["eviction"][0][0] == "fail"
    assert "set noeviction" in found["eviction"][0][1]
    assert found["persistence"][0][0] == "warn"
    assert "set appendonly yes" in found["persistence"][0][1]


async def test_a_warning_fails_when_that_is_asked_for(jobd: Jobd, redis_url: str, namespace: str) -> None:
    options = ("--store", redis_url, "--namespace", namespace)

    assert worst(await check(jobd, *options)) == {"ok", "warn"}
    await check(jobd, *options, "--strict", status=1)


async def test_a_replica_is_no_store(jobd: Jobd, start_server: StartServer) -> None:
    primary = start_server("redis")
    replica = start_server("redis", config=("--replicaof", f"127.0.0.1 {primary.port}"))

    found = await check(jobd, "--store", replica.url, status=1)

    assert any(verdict == "fail" and "is a replica" in text for verdict, text in found["server"])


async def test_the_shard_of_a_namespace_is_reported(server_cluster: ServerCluster, namespace: str) -> None:
    nodes = {str(node.port): node for node in server_cluster.nodes}
    names = (f"{namespace}-{number}" for number in itertools.count())
    served: set[str] = set()
    while served != nodes.keys():  # some names lie on each shard
        name = next(names)
        findings = await diagnose(server_cluster.url, namespace=name, clock=SystemClock())
        (text,) = [finding.text for finding in findings if finding.subject == "shard"]
        told = re.fullmatch(r"slot (\d+) has the namespace; its primary is 127\.0\.0\.1:(\d+)", text)
        assert told is not None, text
        slot, port = told.groups()
        assert int(slot) == nodes[port].command("CLUSTER", "KEYSLOT", f"{{peerjob:{name}}}:")
        async with Node(server_cluster.url, namespace=name, workers=0):
            assert nodes[port].command("EXISTS", f"{{peerjob:{name}}}:layout")  # other shards refuse with MOVED
        served.add(port)


async def test_a_server_alone_has_no_shards(redis_url: str, namespace: str) -> None:
    findings = await diagnose(redis_url, namespace=namespace, clock=SystemClock())
    assert "shard" not in [finding.subject for finding in findings]


async def test_the_confirmation_of_a_server_is_reported(jobd: Jobd, start_server: StartServer) -> None:
    disk = start_server("redis", appendonly=True, config=("--appendfsync", "always"))
    memory = start_server("valkey")

    found = await check(jobd, "--store", f"{disk.url}?durability=aof")
    assert found["durability"] == [("ok", "each step waits up to 3 s for the server's append-only file")]

    found = await check(jobd, "--store", f"{memory.url}?durability=aof", status=1)
    assert found["durability"] == [("fail", "the server keeps no append-only file; set appendonly yes")]
    assert found["store"][0][0] == "fail"

    found = await check(jobd, "--store", f"{memory.url}?durability=replicas:1", status=1)
    ((verdict, text),) = found["durability"]
    assert verdict == "fail"
    assert text.startswith("1 replica must confirm each step, and 0 of them are connected")


async def test_an_etcd_with_little_space_is_reported(jobd: Jobd, start_etcd: StartEtcd) -> None:
    server = start_etcd(quota=1 << 20)
    used = 0
    while used < 0.8 * (1 << 20):  # how much of its file a put takes depends on how many puts share a page
        await asyncio.to_thread(server.call, "kv/put", key="a2V5", value="A" * 65_536)
        await asyncio.to_thread(server.call, "maintenance/hash")  # which commits; else the file grows now and then
        used = int((await asyncio.to_thread(server.call, "maintenance/status"))["dbSize"])

    found = await check(jobd, "--store", f"{server.url}?quota={1 << 20}", status=1)

    ((verdict, text),) = found["quota"]
    assert verdict == "fail"
    assert "new instances are refused" in text


async def test_an_etcd_without_compaction_is_reported(start_etcd: StartEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_etcd()
    for _ in range(3):
        await asyncio.to_thread(server.call, "kv/put", key="a2V5", value="MQ==")

    async def compaction() -> Severity:
        findings = await diagnose(server.url, namespace="x", clock=SystemClock())
        (verdict,) = [finding.verdict for finding in findings if finding.subject == "compaction"]
        return verdict

    assert await compaction() is Severity.OK
    monkeypatch.setattr("peerjob.store.etcd.diagnosis._MANY_REVISIONS", 3)
    assert await compaction() is Severity.WARN
    await asyncio.to_thread(server.compact)
    assert await compaction() is Severity.OK


async def test_a_member_that_is_down_is_reported(jobd: Jobd, start_etcd: StartEtcd) -> None:
    server = start_etcd()

    found = await check(jobd, "--store", f"{server.url},127.0.0.1:1", status=1)

    assert [verdict for verdict, _ in found["server"]] == ["ok", "fail"]


async def test_kinds_and_schedules_without_a_node_are_reported(
    jobd: Jobd, redis_url: str, namespace: str, running: Callable[..., Any]
) -> None:
    node: Node = await running(redis_url, namespace, workers=0, allow_unknown=True)
    for kind in ("double", "lost", "lost"):
        await node.schedule(kind, 1)
    for kind in ("double", "lost"):
        await node.add_schedule(Job(kind).with_options(cron="0 0 1 1 *", name=f"yearly-{kind}"), 1)

    found = await check(jobd, "shop.jobs", "--store", redis_url, "--namespace", namespace)

    assert found["kinds"] == [
        ("ok", "double: 1 wait for a node with these modules"),
        ("warn", "lost: 2 wait, and no node runs this kind"),
    ]
    ((verdict, text),) = found["schedules"]
    assert verdict == "warn"
    assert text.startswith("yearly-lost: no node runs its kind lost")


async def test_ten_of_many_kinds_and_schedules_without_a_node_are_listed(
    jobd: Jobd, redis_url: str, namespace: str, running: Callable[..., Any]
) -> None:
    node: Node = await running(redis_url, namespace, workers=0, allow_unknown=True)
    for number in range(13):
        await node.schedule(f"lost-{number:02}", 1)
        await node.add_schedule(Job(f"lost-{number:02}").with_options(cron="0 0 1 1 *", name=f"yearly-{number:02}"), 1)

    found = await check(jobd, "shop.jobs", "--store", redis_url, "--namespace", namespace)

    for subject in ("kinds", "schedules"):
        assert len(found[subject]) == 11
        assert found[subject][-1] == ("warn", "and 3 more")


async def test_another_signature_of_a_kind_is_reported(
    jobd: Jobd, redis_url: str, namespace: str, running: Callable[..., Any]
) -> None:
    def double(x: int, y: int) -> int:
        return x + y

    await running(redis_url, namespace, jobs=[Job("double", double)])

    found = await check(jobd, "shop.jobs", "--store", redis_url, "--namespace", namespace)

    assert found["signatures"][0][0] == "warn"
    assert "double" in found["signatures"][0][1]


async def test_a_clock_that_is_off_is_reported(redis_url: str, namespace: str) -> None:
    settings = DaemonSettings(store=redis_url, namespace=namespace)

    findings = await examine(settings, ShiftedClock(-5.0))

    (clock,) = [finding for finding in findings if finding.subject == "clock"]
    assert clock.verdict is Severity.WARN
    assert re.fullmatch(r"(4\.9|5\.\d) s behind the server's; synchronise it \(NTP\)", clock.text)


async def test_a_clock_that_is_off_beside_its_peers_fails(
    etcd_url: str, namespace: str, running: Callable[..., Any]
) -> None:
    for name in ("one", "two"):
        await running(etcd_url, namespace, name=name)

    findings = await examine(DaemonSettings(store=etcd_url, namespace=namespace), ShiftedClock(5.0))

    (clock,) = [finding for finding in findings if finding.subject == "clock"]
    assert clock.verdict is Severity.FAIL
    assert re.fullmatch(r"(4\.9|5\.\d) s ahead of the nodes'; synchronise it \(NTP\)", clock.text)


async def test_a_coordinator_that_the_nodes_do_not_use_is_reported(
    jobd: Jobd, redis_url: str, etcd_url: str, namespace: str, running: Callable[..., Any]
) -> None:
    await running(redis_url, namespace)

    found = await check(jobd, "--store", redis_url, "--coordinator", etcd_url, "--namespace", namespace)

    assert found["leader"][0][0] == "warn"


ALIKE = pytest.mark.matrix("others of the same subject stay in make test")


@pytest.mark.parametrize(
    ("options", "subject", "message"),
    [
        (["shop.nope"], "configuration", "there is no shop.nope"),
        (["shop.jobs", "--timezone", "Mars/Base"], "configuration", "Mars/Base"),
        (["--listen", "0.0.0.0:59051"], "service", "insecure"),
        (["--tls-cert", "none.pem", "--tls-key", "none.pem"], "service", "none.pem"),
        pytest.param(["--tokens-file", "none"], "service", "none", marks=ALIKE),
        pytest.param(["--metrics-listen", "nowhere"], "service", "host:port", marks=ALIKE),
        (["--store", "redis://u:hidden@127.0.0.1:1"], "store", "u:***@127.0.0.1:1"),
        pytest.param(["--store", "etcd://127.0.0.1:1"], "store", "127.0.0.1:1", marks=ALIKE),
        pytest.param(["--coordinator", "etcd://127.0.0.1:1"], "leader", "127.0.0.1:1", marks=ALIKE),
    ],
)
async def test_what_would_not_run_fails(jobd: Jobd, options: list[str], subject: str, message: str) -> None:
    found = await check(jobd, *options, status=1)

    ((verdict, text),) = found[subject]
    assert verdict == "fail"
    assert message in text
    assert "hidden" not in text


async def test_a_file_of_tokens_that_others_can_write_fails(jobd: Jobd) -> None:
    tokens = jobd.folder / "tokens"
    tokens.touch()
    tokens.chmod(0o666)

    found = await check(jobd, "--tokens-file", "tokens", status=1)

    assert ("fail", "other users can write tokens, and so give themselves access; chmod go-w") in found["service"]


async def test_an_interrupted_check_is_one_line_and_status_130(jobd: Jobd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        child = jobd.launch("check", "--store", f"redis://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = await asyncio.to_thread(silent.accept)
        child.signal(signal.SIGINT)
        assert await child.exit() == 130
        connection.close()
    assert child.lines == ["jobd: interrupted before the end of the checks"]


async def test_people_are_shown_a_table(jobd: Jobd) -> None:
    child = jobd.launch("check", "shop.jobs", "--store", "memory://")

    assert await child.exit() == 0
    assert any(line.startswith("ok    jobs") for line in child.lines)
    assert any(line.startswith("warn  store") for line in child.lines)


async def test_no_line_is_broken_without_a_terminal(jobd: Jobd) -> None:
    child = jobd.launch("check", "shop.jobs", "--store", "memory://", "--namespace", "n" * 64)

    assert await child.exit() == 0
    assert f"memory://, namespace {'n' * 64}" in "\n".join(child.lines)


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_slow_calls_are_told_with_their_verbs(
    kind: ServerKind,
    start_server: StartServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    running: Callable[..., Any],
) -> None:
    server = start_server(kind, config=("--slowlog-log-slower-than", "0"))

    async def slow_calls() -> tuple[Severity, str]:
        findings = await diagnose(server.url, namespace=namespace, clock=SystemClock())
        ((verdict, text),) = [(one.verdict, one.text) for one in findings if one.subject == "slow calls"]
        return verdict, text

    assert await slow_calls() == (Severity.OK, "none over 100 ms in the last hour")
    server.command("DEBUG", "SLEEP", "0.12")
    verdict, text = await slow_calls()
    assert verdict is Severity.WARN
    longest = re.match(r"over 100 ms in the last hour: DEBUG 1x \(up to (\d+) ms\)", text)
    assert longest is not None, text
    assert 120 <= int(longest[1]) < 10_000, "a busy machine wakes the server late"

    await running(server.url, namespace, name="one")
    monkeypatch.setattr("peerjob.store.lua.check.diagnosis._SLOW", 0.0)
    monkeypatch.setattr("peerjob.store.lua.check.diagnosis._SHOWN", 100)
    server.command("DEBUG", "SLEEP", "0.12")  # the start of a node made more calls than the log keeps
    _, text = await slow_calls()
    assert {"open", "join", "DEBUG"} <= set(re.findall(r"([\w|]+) \d+x", text))


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [("noeviction", Severity.OK), ("volatile-lru", Severity.OK), ("allkeys-lfu", Severity.FAIL)],
)
async def test_a_policy_that_removes_no_job_is_well(start_server: StartServer, policy: str, verdict: Severity) -> None:
    server = start_server("valkey", policy=policy, maxmemory="64mb")

    findings = await diagnose(server.url, namespace="x", clock=SystemClock())

    (found,) = [finding for finding in findings if finding.subject == "eviction"]
    assert found.verdict is verdict
    assert policy in found.text
