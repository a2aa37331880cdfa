"""A namespace moves to another store by `jobctl export` and `jobctl import`."""

import asyncio
import json
import shlex
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from peerjob import (
    Imported,
    Job,
    KeyLimit,
    Node,
    NodeStateError,
    PayloadTooLargeError,
    Query,
    State,
    SystemClock,
    export_namespace,
    import_namespace,
)
from peerjob.model.errors import DecodeError
from peerjob.model.firing import ScheduleRow
from peerjob.model.record import Record
from peerjob.store.base import Store
from peerjob.testing.factories import Factory, Peer
from peerjob.transfer.lines import FORMAT, Header, MovedInstance, line_of, opened
from support.fires import hourly
from support.jobctl import Jobctl
from support.waiting import until

ran: Counter[str] = Counter()


async def mark(number: int) -> int:
    ran[str(number)] += 1
    return number


async def fail(number: int) -> None:
    raise ValueError(number)


async def keep(text: str) -> None: ...


MARK = Job("mark", mark)
KEEP = Job("keep", keep)
LATER = MARK.with_options(after="1h", priority=-3, tags=["late"], retention="3h", max_crashes=7)
FAIL = Job("fail", fail, max_retries=5, backoff="1h")
JOBS = (MARK, FAIL)
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
LATE = 6
"""How many jobs are due in an hour."""


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def target(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


async def fill(url: str, namespace: str, count: int, schedules: int) -> None:
    """Jobs and schedules of all sorts, and no node at the end."""
    async with Node(url, namespace=namespace, jobs=JOBS, workers=1) as node:
        failed = await node.schedule(FAIL, 0)
        async with asyncio.timeout(30):
            async for event in failed.watch():
                if event.state is State.SCHEDULED and event.instance.attempts == 1:
                    break
    async with Node(url, namespace=namespace, jobs=JOBS, workers=0) as node:
        await node.schedule_many(MARK.with_options(key=f"k{number}").call(number) for number in range(count - 11))
        await node.schedule_many(LATER.call(number) for number in range(count, count + LATE))
        for number in range(schedules - 2):
            recurring = MARK.with_options(cron="0 0 1 1 *", name=f"s{number}")
            added = await node.add_schedule(recurring, 10_000_000 + number)
            if number % 5 == 0:
                await added.pause("moving")
        one_by_one = MARK.with_options(cron="0 0 1 1 *", overlap="queue", queue_limit=3, name="one by one")
        added = await node.add_schedule(one_by_one, 20_000_000)
        for _ in range(3):
            assert await added.trigger() is not None
        by_hour = await node.add_schedule(MARK.with_options(cron=hourly(), name="hourly"), 30_000_000)
        assert (await by_hour.backfill(HOUR, HOUR + timedelta(hours=1))).made == 1
    async with opened(url, namespace) as store:
        make = Factory(SystemClock())
        peer = await Peer(store=store, info=make.node("dead", kinds=("mark",)), make=make).join(1_000_000)
        (claim,) = (await peer.claim(peer.want(1))).claims
        assert claim.id

        async def gone() -> bool:
            return not await store.nodes()

        await until(gone)


async def fill_a_little(url: str, namespace: str, count: int) -> None:
    async with Node(url, namespace=namespace, jobs=JOBS, workers=0) as node:
        await node.schedule_many(MARK.call(number) for number in range(count))


async def unfinished(store: Store) -> dict[str, Record]:
    found: dict[str, Record] = {}
    query = Query(state=State.ACTIVE, limit=500)
    while True:
        page = await store.lookup(query)
        found |= {record.id: record for record in page.records}
        if page.cursor is None:
            return found
        query = query.at(page.cursor)


async def schedules_of(store: Store) -> dict[str, ScheduleRow]:
    return {row.name: row for row in (await store.changed_schedules(0)).rows if not row.removed}


async def compare(source: str, target: str, namespace: str) -> tuple[int, int]:
    async with opened(source, namespace) as old, opened(target, namespace) as new:
        before, after = await unfinished(old), await unfinished(new)
        assert before.keys() == after.keys()
        for id, one in before.items():
            other, lost = after[id], int(one.state is State.PROCESSING)
            for name in ("kind", "spec", "priority", "due_us", "key", "retention_us", "max_crashes", "slot", "crashes"):
                assert getattr(other, name) == getattr(one, name), name
            assert sorted(other.tags) == sorted(one.tags)
            assert (other.attempts, other.losses) == (one.attempts - lost, one.losses + lost)
        rows, moved = await schedules_of(old), await schedules_of(new)
        assert rows.keys() == moved.keys()
        for name, row in rows.items():
            other_row = moved[name]
            for part in ("kind", "definition", "next_us", "paused", "note", "holder", "parked"):
                assert getattr(other_row, part) == getattr(row, part), (name, part)
            assert other_row.trimmed_us == row.last_us
        return len(before), len(rows)


async def run_all(url: str, namespace: str) -> None:
    async with Node(url, namespace=namespace, jobs=JOBS, workers=50) as node:
        again = await node.backfill("hourly", HOUR, HOUR + timedelta(hours=1))
        assert (again.made, again.trimmed) == (0, 1)

        async def idle() -> bool:
            return (await node.stats()).total(State.ACTIVE, "mark") == LATE

        await until(idle, 120)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("source", "target", "count", "schedules"),
    [
        ("redis_url", "etcd_url", 400, 12),
        pytest.param(
            "etcd_url", "valkey_url", 120, 6, marks=pytest.mark.matrix("the other direction stays in make test")
        ),
        pytest.param("redis_url", "etcd_url", 10_000, 50, marks=pytest.mark.soak),
    ],
    indirect=["source", "target"],
)
def test_a_namespace_moves_and_nothing_runs_twice(
    source: str, target: str, count: int, schedules: int, namespace: str, tmp_path: Path
) -> None:
    jobctl, file = Jobctl({}), tmp_path / "jobs.jsonl"
    asyncio.run(fill(source, namespace, count, schedules))
    to = ("--store", target, "--namespace", namespace)

    began = time.perf_counter()
    written = jobctl("export", str(file), "--store", source, "--namespace", namespace)
    exported = time.perf_counter() - began
    assert written.status == 0, written.err
    assert f"exported {schedules:,} schedules and {count:,} instances" in written.err
    assert file.stat().st_mode & 0o077 == 0
    lines = file.read_text().splitlines()
    assert json.loads(lines[0]).items() >= {"type": "header", "format": 2, "instances": count}.items()

    part = tmp_path / "part.jsonl"
    part.write_text("".join(f"{line}\n" for line in lines[: len(lines) // 2]))
    broken = jobctl("import", str(part), *to)
    assert broken.status == 1
    assert "not whole" in broken.err

    began = time.perf_counter()
    added = jobctl("import", str(file), *to, "-o", "json").json
    imported = time.perf_counter() - began
    half = len(lines) // 2 - 1
    assert added["instances"] + added["schedules"] == count + schedules - half
    assert added["known_instances"] + added["known_schedules"] == half
    print(f"{count:,} jobs, {schedules} schedules: exported in {exported:.2f} s, imported in {imported:.2f} s")
    assert asyncio.run(compare(source, target, namespace)) == (count, schedules)

    again = jobctl("import", str(file), *to, "-o", "json").json
    assert (again["instances"], again["schedules"], again["refused"]) == (0, 0, 0)
    ran.clear()
    asyncio.run(run_all(target, namespace))
    once = {str(number) for number in range(count - 11)}
    assert {name for name, times in ran.items() if times == 1} >= once
    assert ran["20000000"] == 3
    assert ran["30000000"] == 1
    assert set(ran) == once | {"20000000", "30000000"}
    late = jobctl("import", str(file), *to, "-o", "json").json
    assert (late["instances"], late["schedules"]) == (0, 0)


def test_a_pipe_moves_between_namespaces(redis_url: str, namespace: str) -> None:
    asyncio.run(fill_a_little(redis_url, namespace, 40))
    program = shlex.quote(str(Path(sys.executable).with_name("jobctl")))
    pipe = f"{program} export - --namespace {namespace} | {program} import - --namespace {namespace}-new"
    environment = {"PEERJOB_STORE": redis_url, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(pipe, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "imported 0 schedules and 40 instances" in done.stdout
    assert "exported 0 schedules and 40 instances" in done.stderr


def test_what_cannot_be_moved_is_said(redis_url: str, namespace: str, tmp_path: Path) -> None:
    jobctl, file = Jobctl({}), tmp_path / "jobs.jsonl"
    place = ("--store", redis_url, "--namespace", namespace)
    with Node(redis_url, namespace=namespace, name="busy", jobs=JOBS, workers=0).blocking() as manager:
        manager.schedule(MARK.with_options(key="k"), 1)
        refused = jobctl("export", str(file), *place)
        assert refused.status == 1
        assert "in use by busy" in refused.err
        assert list(tmp_path.iterdir()) == []
    assert jobctl("export", str(file), *place).status == 0
    lines = file.read_bytes().splitlines(keepends=True)
    other = ("--store", redis_url, "--namespace", f"{namespace}-taken")
    with Node(redis_url, namespace=f"{namespace}-taken", jobs=JOBS, workers=0).blocking() as manager:
        holder = manager.schedule(MARK.with_options(key="k"), 2)
        taken = jobctl("import", str(file), *other)
        assert taken.status == 1
        assert f"instance {holder.id} has its key" in taken.err
        assert "1 instance refused" in taken.out
    for text, said in (
        (b"", "not whole"),
        (b"nonsense\n", "line 1 of the export, 'nonsense'"),
        (b"".join(lines[1:]), "does not begin with its header"),
        (lines[0].replace(b'"format":2', b'"format":3'), "has format 3"),
        (b"".join([*lines, lines[1]]), "after its end"),
        (lines[0] + lines[-1], "its last line says 1"),
        (lines[0] + lines[1].replace(b'"id":"0', b'"id":"x'), "line 2 of the export"),
    ):
        file.write_bytes(text)
        wrong = jobctl("import", str(file), *other)
        assert wrong.status == 1
        assert said in wrong.err, (text, wrong.err)
    assert jobctl("import", str(tmp_path / "none"), *other).status == 2
    assert jobctl("import", str(file)).status == 2
    assert jobctl("export", "-", "--store", "memory://").status == 2
    assert jobctl("export", str(file), "--store", "redis://127.0.0.1:1").status == 4


def test_an_export_that_fails_keeps_the_earlier_file(redis_url: str, namespace: str, tmp_path: Path) -> None:
    jobctl, file, link = Jobctl({}), tmp_path / "jobs.jsonl", tmp_path / "link"
    place = ("--store", redis_url, "--namespace", namespace)
    asyncio.run(fill_a_little(redis_url, namespace, 3))
    link.symlink_to(file)
    assert jobctl("export", str(link), *place).status == 0
    file.chmod(0o644)
    before = file.read_bytes()
    with Node(redis_url, namespace=namespace, jobs=JOBS, workers=0).blocking() as manager:
        assert jobctl("export", str(link), *place).status == 1
        assert file.read_bytes() == before
        manager.schedule(MARK, 4)
    assert jobctl("export", str(link), *place).status == 0
    assert len(file.read_bytes().splitlines()) == 6
    assert file.stat().st_mode & 0o077 == 0
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [file, link]
    full = jobctl("export", "/dev/full", *place)
    assert (full.status, full.err.splitlines()[-1]) == (
        1,
        "jobctl: /dev/full cannot be written: No space left on device",
    )


@pytest.mark.parametrize("source", ["redis_url", "etcd_url"], indirect=True)
@pytest.mark.parametrize("change", ["run", "schedule", "recurring"])
async def test_a_node_that_has_left_again_is_noticed(source: str, namespace: str, change: str) -> None:
    await fill_a_little(source, namespace, 3)
    lines = export_namespace(source, namespace=namespace)
    await anext(lines)
    async with Node(source, namespace=namespace, jobs=JOBS, workers=int(change == "run")) as node:
        if change == "run":
            async with asyncio.timeout(60):
                await node.wait(Query(kind="mark"))
        elif change == "schedule":
            await node.schedule(MARK.with_options(after="1h"), 4)
        else:
            await node.add_schedule(MARK.with_options(cron="0 0 1 1 *", name="new"), 5)
    with pytest.raises(NodeStateError, match="changed during the export"):
        async for _ in lines:
            pass


@pytest.mark.parametrize(
    ("source", "target"),
    [("redis_url", "sqlite_url"), ("sqlite_url", "redis_url"), ("sqlite_url", "etcd_url")],
    indirect=True,
)
async def test_instances_keep_their_limit_keys(source: str, target: str, namespace: str) -> None:
    keyed = Job("mark", mark, limits=[KeyLimit("n/{number}", concurrency=2)])
    async with Node(source, namespace=namespace, jobs=keyed, workers=1) as node:
        await node.pause_kind("mark")
        await node.schedule_many(keyed.call(number) for number in (1, 1, 1, 1, 2))
        before = {view.key: (view.admitted, view.waiting) async for view in node.key_limits("mark")}
        assert before == {"n/1": (2, 2), "n/2": (1, 0)}
    lines = [line async for line in export_namespace(source, namespace=namespace)]
    assert (await import_namespace(target, lines, namespace=namespace)).instances == 5
    async with Node(target, namespace=namespace, workers=0, name="reader") as reader:
        assert {view.key: (view.admitted, view.waiting) async for view in reader.key_limits("mark")} == before
        # only a node publishes limits: what an import publishes could replace them
        assert [view async for view in reader.limits()] == []
        async with Node(target, namespace=namespace, jobs=keyed) as node:
            await node.wait(timeout=60)
        assert [view async for view in reader.key_limits("mark")] == []


@pytest.mark.parametrize("target", ["redis_url", "etcd_url"], indirect=True)
async def test_due_times_of_all_years_move(etcd_url: str, target: str, namespace: str) -> None:
    years = [datetime(year, 1, 1, tzinfo=UTC) for year in (1, 1960, 2400, 9999)]
    async with Node(etcd_url, namespace=namespace, jobs=JOBS, workers=0) as node:
        await node.schedule_many(MARK.with_options(at=one).call(one.year) for one in years)
    lines = [line async for line in export_namespace(etcd_url, namespace=namespace)]
    done = await import_namespace(target, lines, namespace=f"{namespace}-new")
    assert (done.instances, done.refusals) == (4, 0)


async def test_records_that_cannot_be_exported_are_told(redis_url: str, namespace: str, tmp_path: Path) -> None:
    await fill_a_little(redis_url, namespace, 2)
    async with opened(redis_url, namespace) as store:
        bad, _ = (await store.lookup(Query())).records
        server = cast("Any", redis.Redis.from_url(redis_url))
        server.set(f"{{peerjob:{namespace}}}:i:{bad.id}", b"?")
        server.close()
        assert await store.get([bad.id]) == [None]
    place = ("--store", redis_url, "--namespace", namespace)
    written = await asyncio.to_thread(Jobctl({}), "export", str(tmp_path / "jobs"), *place)
    assert "1 record cannot be decoded, and cannot be exported" in written.err
    assert "exported 0 schedules and 1 instance of" in written.err


async def test_an_instance_that_is_too_large_for_the_target_is_named(
    redis_url: str, etcd_url: str, namespace: str
) -> None:
    async with Node(redis_url, namespace=namespace, jobs=[KEEP], workers=0, max_payload=16 << 20) as node:
        await node.schedule(KEEP, "small")
        large = await node.schedule(KEEP, "x" * (2 << 20))
    lines = [line async for line in export_namespace(redis_url, namespace=namespace)]
    told: list[Imported] = []
    with pytest.raises(PayloadTooLargeError, match=large.id):
        await import_namespace(etcd_url, lines, namespace=namespace, on_progress=lambda done, _: told.append(done))
    assert told[-1].instances == 1
    async with Node(redis_url, namespace=namespace, jobs=[KEEP], workers=0, max_payload=16 << 20) as node:
        larger = await node.schedule(KEEP, "x" * (13 << 20))
    with pytest.raises(PayloadTooLargeError, match=larger.id):
        async for _ in export_namespace(redis_url, namespace=namespace):
            pass


@pytest.mark.parametrize("large", ["spec", "result", "error"])
async def test_each_part_of_an_instance_counts_for_the_limit_of_the_target(
    etcd_url: str, namespace: str, large: str
) -> None:
    make = Factory(SystemClock())
    child_id, parent_id = (new.id for new in make.instances(2))
    parts: dict[str, Any] = {"spec": b"s", "result": b"r", "error": b"e", large: b"x" * (2 << 20)}
    child = MovedInstance(
        id=child_id, kind="work", priority=0, due_us=0, max_crashes=1, parent=parent_id, state="Completed", **parts
    )
    lines = [line_of(Header(format=FORMAT, release="", namespace="n")), line_of(child)]
    with pytest.raises(PayloadTooLargeError, match=child.id):
        await import_namespace(etcd_url, lines, namespace=namespace)


async def test_a_node_that_joins_meanwhile_is_noticed(redis_url: str, namespace: str) -> None:
    await fill_a_little(redis_url, namespace, 30)
    lines = export_namespace(redis_url, namespace=namespace)
    seen = [await anext(lines)]
    async with Node(redis_url, namespace=namespace):
        with pytest.raises(NodeStateError, match="in use"):  # noqa: PT012  # the lines before the error count
            async for line in lines:
                seen.append(line)  # noqa: PERF401
    assert not any(b'"end"' in line[:20] for line in seen)
    told: list[Imported] = []
    with pytest.raises(DecodeError, match="not whole"):
        await import_namespace(
            redis_url, seen, namespace=f"{namespace}-new", on_progress=lambda done, _: told.append(done)
        )
    assert told[-1].instances == 30


async def test_an_export_of_format_1_is_imported(redis_url: str, namespace: str) -> None:
    id = "01890a5d-ac96-774b-bcce-b302099a8057"
    lines = (
        b'{"type":"header","format":1,"release":"0.1.0","namespace":"old","instances":1}\n',
        b'{"type":"instance","id":"%s","kind":"mark","spec":"gqRhcmdzkQc=","priority":5,"due_us":0,"max_crashes":3,'
        b'"attempts":1,"losses":2}\n' % id.encode(),
        b'{"type":"end","schedules":0,"instances":1}\n',
    )
    assert (await import_namespace(redis_url, lines, namespace=namespace)).instances == 1
    async with opened(redis_url, namespace) as store:
        (record,) = await store.get([id])
    assert record is not None
    assert (record.attempts, record.losses, record.has_steps, record.wait) == (1, 2, False, None)
