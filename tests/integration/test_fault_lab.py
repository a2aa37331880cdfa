"""The lab of real servers, for some seconds."""

import asyncio
import json
import os
import re
import signal
import urllib.error
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.record import Record, StoreLimits
from peerjob.store.drivers import open_store
from peerjob.testing.factories import Factory
from support.etcd import EtcdCluster
from support.fault_jobs import work
from support.lab.checking import Strike, recoveries, violations
from support.lab.clocks import JUMP, FakeClock, faketime
from support.lab.disks import WHY_NOT, small_disk
from support.lab.explaining import explained
from support.lab.failing_over import sentinel
from support.lab.partition import Partition, leader_changes
from support.lab.reporting import BEGIN, END, as_json, as_markdown, kept, put_into
from support.lab.running import STUCK, Report, run
from support.peers import peers
from support.processes import ChildProcess
from support.servers import needed
from support.simulation.evidence import Evidence, Order, Run
from support.stalls import now_us
from support.waiting import PATIENCE

pytestmark = pytest.mark.matrix("tests a tool for tests")


async def test_a_lab_of_some_seconds_finds_no_violation(tmp_path: Path) -> None:
    told: list[str] = []
    with needed():
        report = await run("redis", 6, 1, tmp_path, told.append, asyncio.Event())

    assert report.violations == []
    assert report.instances >= 25
    assert report.runs >= report.instances
    assert sum(report.faults.values()) == len(told) > 0


async def test_the_lab_ends_early_when_it_is_told_to(tmp_path: Path) -> None:
    stop = asyncio.Event()
    with needed():
        report = await run("sqlite", 600, 1, tmp_path, lambda _: stop.set(), stop)

    assert sum(report.faults.values()) == 1
    assert report.violations == []


async def test_nodes_that_end_by_themselves_are_replaced_also_after_the_last_fault(tmp_path: Path) -> None:
    """Else instances wait for nodes that no longer exist: a violation of the lab's own making."""
    stop = asyncio.Event()

    def end_nodes(_: str) -> None:
        for pid in children_of(os.getpid()):
            if b"support.node_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)
        stop.set()

    with needed():
        report = await run("sqlite", 600, 1, tmp_path, end_nodes, stop)

    assert report.violations == []
    assert report.rest > 0
    assert not (tmp_path / STUCK).exists()


def children_of(pid: int) -> list[int]:
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def test_a_lost_instance_is_a_violation() -> None:
    lost = Evidence(orders={"a": Order(id="a", kind="noted")}, records=dict[str, Record]())

    assert [str(one) for one in violations(lost)] == ["NO-LOSS: a: a caller named it, and the store does not have it"]


def test_recoveries_are_measured_from_the_journal() -> None:
    runs = [
        Run(id="a", kind="noted", node="1", fence=1, attempt=1, begin_us=1_000_000),
        Run(
            id="b", kind="noted", node="2", fence=2, attempt=1, begin_us=1_000_000, end_us=9_000_000, ending="returned"
        ),
        Run(
            id="a", kind="noted", node="2", fence=3, attempt=1, begin_us=6_000_000, end_us=7_000_000, ending="returned"
        ),
    ]
    strikes = [
        Strike(kind="node SIGKILL", begin_us=2_000_000, end_us=3_000_000, node="1"),
        Strike(kind="network cut", begin_us=2_000_000, end_us=5_500_000),
    ]

    assert recoveries(strikes, runs) == ({"node SIGKILL": [4.0], "network cut": [0.5]}, {})


def test_recoveries_with_another_leader_are_reported_apart() -> None:
    runs = [
        Run(id=id, kind="noted", node=node, fence=fence, attempt=1, begin_us=begin_us)
        for id, node, fence, begin_us in (("a", "1", 1, 1_000_000), ("a", "2", 2, 6_000_000), ("b", "2", 3, 9_000_000))
    ]
    strikes = [
        Strike(kind="node SIGKILL", begin_us=2_000_000, end_us=3_000_000, node="1"),
        Strike(kind="network cut", begin_us=7_000_000, end_us=8_000_000),
    ]

    assert recoveries(strikes, runs, [(6_500_000, 6_500_000)], ttl=1)[1] == {}
    assert recoveries(strikes, runs, [(5_000_000, 5_000_000)], ttl=1) == (
        {"network cut": [1.0]},
        {"node SIGKILL": [4.0]},
    )
    assert recoveries(strikes, runs, [(6_500_000, 6_500_000)], ttl=2)[1] == {"network cut": [1.0]}


def test_the_report_goes_between_the_markers(tmp_path: Path) -> None:
    report = Report(
        setup="redis",
        seed=1,
        seconds=60,
        faults={"node SIGKILL": 3},
        instances=1200,
        fires=59,
        runs=1300,
        violations=[],
        recovery={"node SIGKILL": {"count": 3, "p50": 3.5, "max": 4.25}},
        moved={"failover": {"count": 1, "p50": 6.5, "max": 6.5}},
        load=0.5,
        left_out={"disk full": "only root can mount"},
    )
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    put_into(page, as_markdown([report], "make faultlab MINUTES=1", datetime(2026, 1, 2, tzinfo=UTC)))

    text = page.read_text()
    assert "| redis | 60 s | 0.5 | 3 | 3 | 1,200 | 59 | 1,300 | 0 |" in text
    assert "| redis | node SIGKILL | 3 | 3.50 s | 4.25 s |" in text
    assert "| redis | failover | 1 | 6.50 s | 6.50 s |" in text
    assert "Left out of redis: disk full, because only root can mount." in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    file = tmp_path / "report.json"
    file.write_text(as_json([report], "make", datetime(2026, 1, 2, tzinfo=UTC)))
    assert kept(file, ["sqlite"]) == [report]
    assert kept(file, ["redis"]) == []
    assert json.loads(as_json([report], "make", datetime(2026, 1, 2, tzinfo=UTC)))["setups"][0]["fires"] == 59


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers\n")

    with pytest.raises(ValueError, match="needs the lines"):
        put_into(page, "text")


async def test_a_partition_leaves_the_leader_of_etcd_in_the_minority() -> None:
    partition = Partition()
    with needed():
        cluster = EtcdCluster()
    try:
        async with partition.between(cluster):
            await asyncio.to_thread(cluster.start)
            alone = await asyncio.to_thread(lambda: cluster.leader)
            others = [member for member in cluster.members if member is not alone]
            with partition.of(alone):
                await others[0].child.line(r"elected leader \w+ at term [3-9]")
                refused = asyncio.to_thread(alone.call, "kv/put", key="YQ==", value="YQ==")
                await asyncio.to_thread(others[0].call, "kv/put", key="Yg==", value="Yg==")
                with pytest.raises(urllib.error.HTTPError):
                    await refused
            await asyncio.to_thread(lambda: cluster.leader)
            assert len(leader_changes(cluster)) >= 1
    finally:
        cluster.close()


async def test_instances_that_wait_for_long_are_explained(redis_url: str, namespace: str, tmp_path: Path) -> None:
    async with peers(redis_url, namespace, tmp_path) as group:
        busy, killed = group.start(name="busy", workers=1), group.start(name="killed", workers=1)
        killed.kill()
        await group.client.schedule_many(work.call(number, PATIENCE) for number in range(3))
        await group.running(1, on="busy")
        text = await explained(
            group.client, redis_url, group.children, lambda: ["all well"], [], since_us=now_us() - 25_000_000, stalls=[]
        )

    assert "no further answer" not in text
    for line in (
        "  all well",
        "  2 Scheduled work of None",
        "  1 Processing work of busy",
        "  0 began from 20 s to 30 s after the last fault",
        "  pool: claims 0 at most ",
        "  lease: trusted True",
        f"node {busy.pid}:\n  live ok",
        f"node {killed.pid}:\n  it has ended with -9",
    ):
        assert line in text, text
    assert re.search(r"  claim loop: \d+ rounds answered, 0 failures in a row", text)
    assert re.search(r"  node task peerjob-claim loop: role.py:\d+ _supervise > claim_loop.py:\d+ run", text)
    assert re.search(r"  why: .*busy", text)


def test_a_small_disk_is_full_until_there_is_room_again() -> None:
    with small_disk("4m") as disk:
        if disk is None:
            pytest.skip(WHY_NOT)
        file = disk.folder / "file"
        with disk.full(), pytest.raises(OSError, match="No space left"):
            file.write_bytes(b"x" * 4096)
        file.write_bytes(b"x" * 4096)


def test_a_clock_jumps_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    library = faketime()
    if library is None:
        pytest.skip("no libfaketime")
    clock = FakeClock(library, tmp_path / "clock")
    script = tmp_path / "show.py"
    script.write_text(
        "import time\nfrom support.true_time import true_us\n"
        "while True:\n    print(round(time.time() - true_us() / 1e6), flush=True)\n    time.sleep(0.1)\n"
    )
    with ChildProcess.python(script, output=tmp_path / "log", env=clock.env) as child:
        child.wait_for(r"^0$")
        clock.set(JUMP)
        child.wait_for(r"^30$")
        clock.set(-JUMP)
        child.wait_for(r"^-30$")


@pytest.mark.parametrize("kind", ["failover", "failover by SIGSTOP"])
async def test_a_failover_ends_when_the_old_primary_has_all_data_again(kind: str) -> None:
    """Else the next failover takes the only copy: a violation of the lab's own making."""
    with needed():
        manager = sentinel(Random(1))
    async with manager as site:
        store = open_store(site.direct, namespace="n", clock=SystemClock(), limits=StoreLimits(), retry_for=PATIENCE)
        await store.open()
        make = Factory(SystemClock())
        made = [make.instance(spec=b"x" * 100_000) for _ in range(200)]
        for start in range(0, len(made), 20):
            await store.enqueue(made[start : start + 20])
        for _ in range(2):
            await site.harms[kind]()
        assert None not in await store.get([one.id for one in made])
        await store.close()
