"""Files that a SQLite store refuses, files that go away while it runs, and a disk that is full."""

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerjob import Job, Node, OptionError, Query, State, StoreError, StoreFullError, StoreUnavailableError
from peerjob.cli.daemon.check import examine
from peerjob.cli.daemon.settings import DaemonSettings
from peerjob.model.clock import SystemClock
from peerjob.model.errors import LayoutError
from peerjob.model.findings import Severity
from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import diagnose, open_store, wipe_namespace
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.backup import back_up
from peerjob.store.sqlite.driver import SqliteKeyValue
from peerjob.store.sqlite.file import APPLICATION, TABLES
from peerjob.testing.factories import Factory
from support.division import in_matrix
from support.jobctl import Jobctl
from support.jobd import Jobd
from support.processes import ChildProcess
from support.stalls import Stalls, now_us
from support.waiting import until

JOBCTL = Path(sys.executable).with_name("jobctl")


def store_of(path: Path) -> Store:
    return open_store(
        f"sqlite://{path}?sync=normal", namespace="n", clock=SystemClock(), limits=StoreLimits(), retry_for=0
    )


async def refusal(path: Path) -> Exception:
    with Stalls() as stalls:
        began_us = now_us()
        with pytest.raises((OptionError, StoreError)) as caught:
            await store_of(path).open()
        assert stalls.took(began_us) < 5
    assert str(path) in str(caught.value)
    return caught.value


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


def made(path: Path, *statements: str) -> bytes:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["CREATE TABLE users (name TEXT)"], "another application's"),
        (["PRAGMA application_id = 7"], "another application's"),
        ([f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {TABLES + 1}"], "upgrade this node"),
    ],
)
async def test_a_file_of_something_else_is_refused_and_stays_as_it_is(
    tmp_path: Path, statements: list[str], expected: str
) -> None:
    path = tmp_path / "a.db"
    before = made(path, *statements)

    error = await refusal(path)

    assert expected in str(error)
    assert isinstance(error, LayoutError if "upgrade" in expected else OptionError)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.db"]


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_text("name,age\n" * 1000)
    assert "no SQLite file" in str(await refusal(path))
    assert path.read_text() == "name,age\n" * 1000
    assert names(tmp_path) == ["a.db"]


async def test_a_folder_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    assert "not a folder" in str(await refusal(tmp_path))
    assert "in a folder that exists" in str(await refusal(tmp_path / "no" / "a.db"))


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_nothing_is_written_into_a_file_that_went_away(tmp_path: Path, how: str) -> None:
    path, make = tmp_path / "a.db", Factory(SystemClock())
    store = store_of(path)
    await store.open()
    await store.enqueue([make.instance()])
    path.rename(tmp_path / "old.db")
    if how == "replaced":
        made(path, "CREATE TABLE users (name TEXT)")
    with pytest.raises(StoreError, match=f"{path}.* was {how}"):
        await store.enqueue([make.instance()])
    (tmp_path / "old.db").rename(path)
    await store.enqueue([make.instance()])
    assert (await store.health()).counts["work"][State.SCHEDULED] == 2
    await store.close()


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_file_is_not_opened_while_a_process_has_its_predecessor_open(tmp_path: Path, how: str) -> None:
    path, copy, make = tmp_path / "a.db", tmp_path / "copy.db", Factory(SystemClock())
    url = f"sqlite://{path}?sync=normal"
    with ChildProcess.python("support.sqlite_process", "write", url, "w", output=tmp_path / "w.log") as writer:
        await writer.line("wrote 3$")
        back_up(url, copy)
        writer.pause()  # its next write would end it
        path.unlink()
        if how == "replaced":
            copy.rename(path)
        assert f"was {how} while process {writer.pid} has it open" in str(await refusal(path))
        if how == "replaced":
            with pytest.raises(StoreError, match=f"process {writer.pid} has it open"):
                back_up(url, tmp_path / "mixed.db")
        assert path.exists() is (how == "replaced")
        writer.kill()
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    store = store_of(path)
    await store.open()
    await store.enqueue([make.instance()])
    await store.close()


async def test_leases_that_cannot_end_in_a_removed_file_take_no_processor_time(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    kv = SqliteKeyValue(parse_address(f"sqlite://{path}?sync=normal"), SystemClock())
    await kv.open()
    lease = await kv.grant(100_000)
    path.rename(tmp_path / "old.db")

    async def has_ended() -> bool:
        return await kv.remaining([lease]) == [0]

    await until(has_ended)
    began = time.process_time()
    await asyncio.sleep(2)
    assert time.process_time() - began < 0.2
    (tmp_path / "old.db").rename(path)
    await kv.txn([Transaction([], [Put("test/a", b"")])])
    await kv.close()


async def test_check_finds_the_writer_of_a_file_behind_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "a.db")
    with ChildProcess.python(
        "support.sqlite_process", "hold", f"sqlite://{tmp_path / 'a.db'}", output=tmp_path / "h"
    ) as one:
        await one.line("holds")
        one.pause()
        found = {one.subject: one for one in await diagnose(f"sqlite://{link}", namespace="n", clock=SystemClock())}
    assert f"process {one.pid} is stopped inside a write" in found["writer"].text


async def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.symlink_to(tmp_path / "b.db")
    (tmp_path / "b.db").symlink_to(path)
    assert "in a folder that exists" in str(await refusal(path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    mount = shutil.which("mount")
    if os.getuid() or mount is None:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_refuses_new_instances_and_lets_the_others_end(small_disk: Path) -> None:
    path, count = small_disk / "a.db", 0

    async def measure(text: str) -> int:
        return len(text)

    job = Job("measure", measure)
    async with Node(f"sqlite://{path}?sync=normal", jobs=[job], workers=0) as node:

        async def fill() -> None:
            nonlocal count
            for _ in range(100):
                await node.schedule_many(job.call("x" * 500_000) for _ in range(4))
                count += 4

        with pytest.raises(StoreFullError):
            await fill()
        assert count
        ballast = small_disk / "ballast"
        _fill_with(ballast)
        with Stalls() as stalls:
            began_us = now_us()
            with pytest.raises(StoreFullError):
                await node.schedule(job, "y")
            assert stalls.took(began_us) < 5
        ballast.unlink()
        async with Node(f"sqlite://{path}?sync=normal", jobs=[job], workers=4) as worker:
            await worker.wait(timeout=60)
        assert await node.count(Query(state=State.COMPLETED)) >= count
        assert await node.count(Query(state=State.ACTIVE)) == 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_watches_that_cannot_be_written_take_no_processor_time(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk, neither the watches of a process nor the end of a lease can be written."""
    path = small_disk / "a.db"
    kv = SqliteKeyValue(parse_address(f"sqlite://{path}?sync=normal"), SystemClock())
    await kv.open()
    lease = await kv.grant(100_000)
    ballast = small_disk / "ballast"
    _fill_with(ballast)

    async def has_ended() -> bool:
        return await kv.remaining([lease]) == [0]

    await until(has_ended)
    watch = kv.watch("test/")
    began = time.process_time()
    await asyncio.sleep(2)
    assert time.process_time() - began < 0.2
    warnings = [record.getMessage() for record in caplog.records if "watches" in record.getMessage()]
    assert 1 <= len(warnings) <= 4
    assert all(str(path) in warning and "no space is left" in warning for warning in warnings)
    with pytest.raises(StoreUnavailableError, match=f"{path}.*: no space is left for the file"):
        await kv.txn([Transaction([], [Put("test/a", b"x" * 100_000)])])
    ballast.unlink()
    await kv.txn([Transaction([], [Put("test/a", b"")])])
    watch.close()
    await kv.close()


def _fill_with(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


async def test_check_tells_where_the_file_is_and_names_a_stopped_writer(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'a.db'}"
    with ChildProcess.python("support.sqlite_process", "hold", url, output=tmp_path / "hold.log") as holder:
        await holder.line("holds")
        holder.pause()
        found = {one.subject: one for one in await diagnose(url, namespace="n", clock=SystemClock())}
        assert found["writer"].verdict is Severity.FAIL
        assert f"process {holder.pid} is stopped inside a write" in found["writer"].text
        holder.kill()
        found = {one.subject: one for one in await diagnose(url, namespace="n", clock=SystemClock())}
    assert found["writer"].verdict is Severity.OK
    assert str(tmp_path / "a.db") in found["file"].text
    assert "waits for the disk" in found["file"].text


def test_without_a_store_jobd_keeps_jobs_in_a_file_and_says_where(jobd: Jobd) -> None:
    child = jobd.run("--workers", "1")
    child.wait_for(f"no other --store is given: the file {jobd.folder}/peerjob.db keeps the jobs")
    child.wait_for(f"on sqlite://{jobd.folder}/peerjob.db")
    assert child.terminate() == 0
    assert (jobd.folder / "peerjob.db").is_file()


def test_no_command_makes_the_file_that_it_reads_or_clears(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    url = f"sqlite://{wrong}/a.db"
    jobctl, refused = Jobctl({}), f"store: expected a file that exists, got '{wrong}/a.db'"
    for arguments in (("export", str(tmp_path / "jobs.jsonl")), ("backup", str(tmp_path / "copy.db"))):
        answer = jobctl(*arguments, "--store", url)
        assert (answer.status, answer.err) == (2, f"jobctl: {refused}\n")
    with pytest.raises(OptionError, match=re.escape(refused)):
        asyncio.run(wipe_namespace(url, namespace="n", clock=SystemClock()))
    settings = DaemonSettings(store=url, coordinator=f"sqlite://{wrong}/b.db", outbox=f"sqlite:///{wrong}/c:d.db")
    found = asyncio.run(examine(settings, SystemClock()))
    bad = [(one.subject, one.text) for one in found if one.verdict is not Severity.OK]
    advice = "does not exist; the first node makes it, unless the path is wrong"
    assert bad == [
        ("outbox", f"OptionError: outbox: expected the file of a database that exists, got '{wrong}/c:d.db'"),
        ("store", f"{wrong}/a.db {advice}"),
        ("leader", f"{wrong}/b.db {advice}"),
    ]
    assert names(wrong) == []
    with pytest.raises(OptionError, match="a file that this user may read"):
        asyncio.run(wipe_namespace(f"sqlite://{wrong}/{'a' * 300}.db", namespace="n", clock=SystemClock()))


@pytest.mark.parametrize(
    ("coordinator", "subject", "verdict"),
    [("b.db", "leader", Severity.WARN), ("b.db?sync=no", "store", Severity.FAIL)],
)
async def test_a_coordinator_that_is_missing_or_wrong_hides_no_check_of_the_store(
    tmp_path: Path, coordinator: str, subject: str, verdict: Severity
) -> None:
    store = store_of(tmp_path / "a.db")
    await store.open()
    await store.close()
    settings = DaemonSettings(store=f"sqlite://{tmp_path}/a.db", coordinator=f"sqlite://{tmp_path}/{coordinator}")
    found = {one.subject: one for one in await examine(settings, SystemClock())}
    assert "clock" in found
    assert found[subject].verdict is verdict
    assert not (tmp_path / "b.db").exists()


async def test_a_backup_of_a_running_store_is_one_whole_file(tmp_path: Path) -> None:
    path, copy, make = tmp_path / "a.db", tmp_path / "copy.db", Factory(SystemClock())
    store = store_of(path)
    await store.open()
    await store.enqueue([make.instance() for _ in range(500)])

    done = await asyncio.create_subprocess_exec(JOBCTL, "backup", copy, "--store", f"sqlite://{path}")
    assert await done.wait() == 0
    await store.enqueue([make.instance()])
    again = await asyncio.create_subprocess_exec(JOBCTL, "backup", copy, "--store", f"sqlite://{path}")
    assert await again.wait() == 2
    await store.close()

    assert [name for name in names(tmp_path) if "copy" in name] == ["copy.db"]
    restored = store_of(copy)
    await restored.open()
    assert (await restored.health()).counts["work"][State.SCHEDULED] == 500
    await restored.close()


@pytest.mark.parametrize(
    "damage",
    [
        in_matrix(b"\0" * 4096, "another damage stays in make test"),
        in_matrix(b"\xff" * 4096, "another damage stays in make test"),
        b"\x0a" + b"\0" * 4095,
    ],
    ids=["empty", "bits", "leaf"],
)
async def test_a_backup_of_a_damaged_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    path, copy, make = tmp_path / "a.db", tmp_path / "copy.db", Factory(SystemClock())
    store = store_of(path)
    await store.open()
    await store.enqueue([make.instance() for _ in range(500)])
    await store.close()
    with path.open("r+b") as file:
        file.seek(20 * len(damage))
        file.write(damage)

    with pytest.raises(StoreError, match=r"damaged|malformed"):
        back_up(f"sqlite://{path}", copy)
    done = await asyncio.create_subprocess_exec(JOBCTL, "backup", copy, "--store", f"sqlite://{path}")
    assert await done.wait() == 1
    assert [name for name in names(tmp_path) if "copy" in name] == []
