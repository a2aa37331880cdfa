"""Several processes on one file: kills, stops, forks, and the time that a renewal takes."""

import asyncio
import contextlib
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Enqueued, StoreLimits
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.kv.format.keys import below
from peerjob.store.sqlite import requests
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.driver import SqliteKeyValue, sqlite_store
from peerjob.testing.factories import Factory
from support.processes import ChildProcess
from support.sqlite_process import COUNTER
from support.stalls import Span, Stalls, now_us, stalls_in
from support.waiting import until

KILLS = 8


@pytest.fixture
def file(sqlite_file: Path, namespace: str) -> Path:
    """A file of the test's own, in memory where that can be: how long a disk takes is no matter here."""
    return sqlite_file.with_name(f"{namespace}.db")


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite://{file}?sync=normal"


@pytest.fixture
async def kv(url: str) -> AsyncIterator[SqliteKeyValue]:
    opened = SqliteKeyValue(parse_address(url), SystemClock())
    await opened.open()
    yield opened
    await opened.close()


class Processes:
    """Starts processes of `support.sqlite_process`."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.children: list[ChildProcess] = []

    def start(self, verb: str, *arguments: str) -> ChildProcess:
        output = self._folder / f"child-{len(self.children)}.log"
        child = ChildProcess.python("support.sqlite_process", verb, self._url, *arguments, output=output)
        self.children.append(child)
        return child


@pytest.fixture
def processes(url: str, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(url, tmp_path)
    yield made
    for child in made.children:
        child.close()


async def test_no_kill_loses_an_acknowledged_write_or_damages_the_file(
    kv: SqliteKeyValue, processes: Processes, file: Path
) -> None:
    chance = random.Random(7)
    running = {f"w{n}": processes.start("write", f"w{n}") for n in range(4)}
    children = dict(running)
    for turn in range(KILLS):
        name = chance.choice(sorted(running))
        await running[name].line("wrote 5$" if turn < 4 else "wrote 2$")
        running.pop(name).kill()
        running[f"x{turn}"] = children[f"x{turn}"] = processes.start("write", f"x{turn}")
    for child in running.values():
        child.kill()
    for child in children.values():
        child.wait()  # a kill does not wait for the lines that the child has printed

    (counter,), total = await kv.get([COUNTER]), 0
    for name, child in children.items():
        acknowledged = [int(line.split()[1]) for line in child.lines if line.startswith("wrote ")]
        (found,) = await kv.read([below(f"test/by/{name}/", keys_only=True)])
        # the last one may have been written without being acknowledged
        assert len(acknowledged) <= found.count <= len(acknowledged) + 1
        total += found.count
    assert counter is not None
    assert int(counter.value) == total
    await kv.close()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_stopped_writer_is_named_and_readers_go_on(
    kv: SqliteKeyValue, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "WRITE_LOCK_TIMEOUT", 0.3)
    holder = processes.start("hold")
    await holder.line("holds")
    holder.pause()

    with pytest.raises(StoreUnavailableError, match=f"process {holder.pid} is stopped inside a write.*kill -CONT"):
        await kv.txn([Transaction([], [Put("test/a", b"")])])
    assert await kv.get(["test/a"]) == [None]

    holder.kill()
    await kv.txn([Transaction([], [Put("test/a", b"")])])
    (entry,) = await kv.get(["test/a"])
    assert entry is not None


async def test_a_lease_of_a_process_that_died_ends_in_one_without_leases(
    kv: SqliteKeyValue, processes: Processes
) -> None:
    dead = processes.start("lease")
    await dead.line("leases")
    dead.kill()

    async def has_ended() -> bool:
        return await kv.get(["test/leased"]) == [None]

    await until(has_ended)


async def test_a_thread_whose_write_waits_too_long_stores_nothing(
    url: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SystemClock()
    store, make = sqlite_store(url, namespace="test", clock=clock, limits=StoreLimits(), retry_for=0), Factory(clock)
    await store.open()
    calls = store.direct_calls()
    assert calls is not None
    monkeypatch.setattr(requests, "WRITE_LOCK_TIMEOUT", 0.3)
    holder = processes.start("hold")
    await holder.line("holds")
    first, second = make.instances(2)

    with pytest.raises(StoreUnavailableError, match=f"process {holder.pid} is inside a write"):
        await asyncio.to_thread(calls.enqueue, [first])
    holder.kill()
    assert await asyncio.to_thread(calls.enqueue, [second]) == [Enqueued(second.id, True)]
    assert await asyncio.to_thread(calls.enqueue, [second]) == [Enqueued(second.id, True, repeated=True)]
    assert [one and one.id for one in await store.get([first.id, second.id])] == [None, second.id]
    await store.close()


async def test_a_renewal_is_answered_within_a_second_while_four_processes_write(
    kv: SqliteKeyValue, processes: Processes
) -> None:
    writers = [processes.start("write", f"w{n}") for n in range(4)]
    for writer in writers:
        await writer.line("wrote 3$")
    lease = await kv.grant(60_000_000)

    def of_writers() -> list[Span]:
        """A writer that stands still within its write keeps the others from theirs."""
        return [span for writer in writers for span in stalls_in(writer.lines)]

    with Stalls(others=of_writers) as stalls:
        for _ in range(40):
            began = now_us()
            assert await kv.keepalive(lease)
            # a writer tells of its stall a moment after it
            await until(partial(_is_short, stalls, began, now_us()))


def _is_short(stalls: Stalls, began_us: int, ended_us: int) -> bool:
    return stalls.took(began_us, ended_us) < 1.0


async def test_a_put_of_another_process_reaches_a_watch_long_before_the_next_second(
    kv: SqliteKeyValue, processes: Processes
) -> None:
    watch = kv.watch("test/by/")
    await kv.get(["test/a"])
    child = processes.start("write", "w0")
    await child.line("writes")
    found = await watch.changed(20)
    assert found
    child.kill()

    async def is_quiet() -> bool:
        return not await watch.changed(1.5)

    await until(is_quiet)
    watch.close()


async def test_a_fork_leaves_the_file_to_the_parent(processes: Processes) -> None:
    child = processes.start("fork")
    assert await child.exit() == 0
    assert child.lines[-2:] == ["child 0", "found 3"]
    assert any("was opened before a fork" in line for line in child.lines)


async def test_forks_can_follow_each_other_at_once(processes: Processes) -> None:
    child = processes.start("forks")
    await child.line("forked")
    assert await child.exit() == 0


def test_a_folder_that_the_user_may_not_write_is_refused(tmp_path: Path) -> None:
    # not below tmp_path, whose parents no other user may enter
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        folder = Path(root, "deep")
        folder.mkdir()
        path, output = folder / "a.db", tmp_path / "refused.log"
        with ChildProcess.python("support.sqlite_process", "refused", f"sqlite://{path}", output=output) as child:
            assert child.wait() == 0
            reason = f"a path in a folder that this user may write; {folder} is read-only"
            assert child.lines == [f"store: expected {reason}, got {str(path)!r} False"]


async def test_two_users_of_one_process_share_the_file(kv: SqliteKeyValue) -> None:
    other = kv.separate()
    await other.open()
    await asyncio.gather(
        *(one.txn([Transaction([], [Put(f"test/{n}", b"")])]) for n, one in enumerate((kv, other) * 5))
    )
    await other.close()
    (found,) = await kv.read([below("test/")])
    assert found.count == 10
