"""A thread without an event loop writes a file of SQLite by itself, in one statement, while it is the only one."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from peerjob.model.clock import Clock, SystemClock
from peerjob.model.errors import StoreError
from peerjob.store.direct import run_unsuspended
from peerjob.store.kv.format.base import Applied, Compare, Delete, Entry, Op, Put, Range, Transaction
from peerjob.store.kv.format.keys import below
from peerjob.store.sqlite import thread
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.driver import BlockingKeyValue, SqliteKeyValue
from peerjob.store.sqlite.session import Session
from peerjob.testing.clock import VirtualClock
from support.synced import Committed, seen_commits
from support.waiting import IN_TIME


class File:
    """A file with a thread that writes it. `here` has for each transaction whether the calling thread wrote it."""

    def __init__(self, path: Path, clock: Clock, sync: str) -> None:
        self.path = path
        address = parse_address(f"sqlite://{path}?sync={sync}")
        self.kv = SqliteKeyValue(address, clock)
        self.blocking = BlockingKeyValue(self.kv, address, clock)
        self.here: list[bool] = []

    async def open(self) -> None:
        await self.kv.open()
        owner: Any = self.kv.open_thread()
        owner._calls_alone = thread._ALONE  # pyright: ignore[reportPrivateUsage]
        # the first write reads what other processes watch
        await self.kv.txn([Transaction([], [Put("test/other", b"o"), Put("test/head", b"5")])])
        write_here = owner.write_here

        def seen(*given: object, **named: object) -> Applied | None:
            applied: Applied | None = write_here(*given, **named)
            self.here.append(applied is not None)
            return applied

        owner.write_here = seen

    def write(
        self,
        *parts: tuple[Sequence[Compare], Sequence[Op]],
        reads: Sequence[Range] = (),
        guards: Sequence[Compare] = (),
    ) -> Applied:
        self.rest()
        *first, last = (Transaction(compares, ops) for compares, ops in parts)
        also = Transaction(last.compares, last.ops, reads)
        return run_unsuspended(self.blocking.txn(first, also, guards))

    def rest(self) -> None:
        """Wait until the thread of the file sleeps again."""
        owner: Any = self.kv.open_thread()
        until = time.monotonic() + IN_TIME
        while not owner._is_asleep:
            assert time.monotonic() < until
            time.sleep(0.0005)

    def put(self, key: str) -> Applied:
        return self.write(([], [Put(key, b"")]))

    def entries(self) -> dict[str, Entry]:
        (found,) = run_unsuspended(self.blocking.read([below("test/")]))
        return dict(found.items)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[File]:
    opened = File(tmp_path / "a.db", SystemClock(), "normal")
    await opened.open()
    yield opened
    await opened.kv.close()


async def test_a_statement_compares_and_writes_all(file: File) -> None:
    head, new = file.entries()["test/head"].mod, Compare("test/a")
    applied = file.write(
        ([new], [Put("test/a", b"1"), Put("test/b", b"2")]),
        ([Compare("test/head", mod=head)], [Put("test/head", b"6")]),
        reads=[below("test/"), below("none/")],
        guards=[Compare("test/other", mod=head), Compare("test/head", below="6")],
    )
    assert file.here == [True]
    entries = file.entries()
    assert {key: entry.value for key, entry in entries.items()} == {
        "test/a": b"1",
        "test/b": b"2",
        "test/head": b"6",
        "test/other": b"o",
    }
    assert {entries[key].mod for key in ("test/a", "test/b", "test/head")} == {applied.revision}
    assert applied.revision > head == entries["test/other"].mod
    assert applied.answers == [()]
    assert applied.also is not None
    assert [dict(found.items) for found in applied.also] == [entries, {}]


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare("test/other"), False),
        (Compare("test/none", mod=1), False),
        (Compare("test/none"), True),
        (Compare("test/head", below="5"), False),
        (Compare("test/head", below="50"), True),
        (Compare("test/none", below="5"), False),
        (Compare("test/z", end="test/zz"), True),
        (Compare("test/", end="test0"), False),
    ],
)
async def test_what_does_not_hold_is_the_task_of_the_thread_of_the_file(
    file: File, compare: Compare, holds: bool
) -> None:
    for number, place in enumerate(["guard", "first", "last"]):
        guards, first, last = ([compare] if place == one else [] for one in ("guard", "first", "last"))
        put = f"test/new/{number}"
        applied = file.write((first, [Put(f"{put}/a", b"")]), (last, [Put(f"{put}/b", b"")]), guards=guards)
        written = {key for key in file.entries() if key.startswith(put)}
        assert applied.refused is (place == "guard" and not holds)
        assert (applied.answers[0] is not None) is (holds or place == "last")
        assert (applied.also is not None) is holds
        assert written == ({f"{put}/a", f"{put}/b"} if holds else {f"{put}/a"} if place == "last" else set())
    assert set(file.here) == {holds and not compare.end}


async def test_keys_with_leases_and_deletes_and_long_calls_are_the_task_of_the_thread_of_the_file(file: File) -> None:
    lease = run_unsuspended(file.blocking.grant(60_000_000))
    calls: list[list[Op]] = [
        [Put("test/leased", b"", lease)],
        [Delete("test/other")],
        [Put("test/a", b""), Delete("test/", "test0")],
        [Put(f"test/{number}", b"") for number in range(40)],
    ]
    for ops in calls:
        file.write(([], ops))
    file.rest()
    run_unsuspended(file.blocking.txn([Transaction([], [Put("test/a", b"")], [below("test/")])]))
    assert file.here == [False] * 5
    assert len(file.entries()) == 41


async def test_a_watch_hears_of_a_key(file: File) -> None:
    with_watch = file.kv.watch("test/heard/")
    await file.kv.txn([Transaction([], [Put("test/a", b"")])])
    file.put("test/heard/a")
    assert await with_watch.changed(IN_TIME) == {"test/heard/a": b""}
    file.put("test/b")
    assert file.here == [False, True]
    with_watch.close()


async def test_a_process_that_watches_since_the_last_write_is_rung(file: File) -> None:
    file.put("test/a")
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("INSERT INTO watch VALUES ('gone', 'test/')")
    other.execute("UPDATE store SET watches = watches + 1")
    file.put("test/b")
    assert file.here == [True, False]
    assert other.execute("SELECT count(*) FROM watch").fetchone() == (0,), "nothing rang"
    other.close()


@pytest.mark.parametrize("sync", ["full", "normal"])
async def test_a_statement_waits_for_the_disk(tmp_path: Path, sync: str) -> None:
    with seen_commits() as seen:
        file = File(tmp_path / "a.db", SystemClock(), sync)
        await file.open()
        seen.clear()
        file.write(([], [Put("test/a", b"")]), ([], [Put("test/b", b"")]))
        assert seen == [Committed(kept=["test/a", "test/b"], waited=sync == "full")]
        assert file.here == [True]
        await file.kv.close()


async def test_no_revision_comes_twice_while_the_time_stands_still(tmp_path: Path) -> None:
    file = File(tmp_path / "a.db", VirtualClock(), "normal")
    await file.open()
    revisions = [file.put(f"test/{number}").revision for number in range(3)]
    assert revisions == sorted(set(revisions))
    assert file.here == [False] * 3
    await file.kv.close()


async def test_the_log_of_changes_does_not_grow_without_end(
    file: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Any = file.kv.open_thread()._session  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(Session, "check_space", lambda self: None)
    session._checkpoint_from = 50
    sizes: list[int] = []
    for number in range(200):
        file.write(([], [Put(f"test/{number % 7}/{place}", b"x" * 100) for place in range(5)]))
        sizes.append((tmp_path / "a.db-wal").stat().st_size)
    assert sizes[-1] == sizes[100]
    assert file.here.count(True) > 100


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_nothing_is_written_into_a_file_that_went_away(file: File, tmp_path: Path, how: str) -> None:
    file.put("test/a")
    file.path.rename(tmp_path / "old.db")
    if how == "replaced":
        file.path.touch()
    with pytest.raises(StoreError, match=f"was {how}"):
        file.put("test/b")
    (tmp_path / "old.db").replace(file.path)
    file.put("test/c")
    assert {"test/a", "test/c"} == set(file.entries()) - {"test/other", "test/head"}


# -- signals: each comes while the thread has the locks, between two calls of SQLite -----------------------------------


@contextmanager
def one_signal(monkeypatch: pytest.MonkeyPatch, does: Callable[[], None]) -> Generator[None]:
    """Let the next statement be interrupted by a signal whose handler does something."""
    write, left = Session.write_directly, [True]

    def interrupted(self: Any, *given: Any, **named: Any) -> Applied | None:
        check = self._file.check_same

        def raising() -> None:
            check()
            if left:
                left.clear()
                signal.raise_signal(signal.SIGUSR1)

        with monkeypatch.context() as patch:
            patch.setattr(self._file, "check_same", raising)
            return write(self, *given, **named)

    def handle(signum: int, frame: FrameType | None) -> None:
        does()

    before = signal.signal(signal.SIGUSR1, handle)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "write_directly", interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert not left


async def test_a_signal_handler_can_write(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle() -> None:
        file.put("test/nested")
        assert file.here == [True, True]
        # as all that goes over the event loop, this is the task of the thread of the file
        file.write(([], [Delete("test/other")]))
        assert "test/other" not in file.entries()

    file.put("test/first")
    with one_signal(monkeypatch, handle):
        file.put("test/outer")
    assert {"test/first", "test/nested", "test/outer", "test/head"} == set(file.entries())
    assert file.here == [True, True, False, True]


async def test_ctrl_c_leaves_no_lock(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), one_signal(monkeypatch, interrupt):
        file.put("test/a")
    assert "test/a" not in file.entries()
    file.put("test/b")
    await file.kv.txn([Transaction([], [Put("test/c", b"")])])
    assert file.here == [True]
    assert {"test/b", "test/c"} < set(file.entries())


async def test_a_signal_handler_can_fork(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []

    def fork() -> None:
        child = os.fork()
        if not child:
            os._exit(3)
        children.append(child)

    with one_signal(monkeypatch, fork):
        file.put("test/a")
    (child,) = children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3  # noqa: ASYNC222  # nothing else runs here
    file.put("test/b")
    assert {"test/a", "test/b"} < set(file.entries())
    assert file.here == [True, True]


async def test_a_fork_waits_for_a_thread_that_writes(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    write, writes, is_done = Session.write_directly, threading.Event(), False

    def slow(self: Any, *given: Any, **named: Any) -> Applied | None:
        nonlocal is_done
        writes.set()
        time.sleep(0.2)
        applied = write(self, *given, **named)
        is_done = True
        return applied

    monkeypatch.setattr(Session, "write_directly", slow)
    writing = threading.Thread(target=file.put, args=("test/a",))
    writing.start()
    assert writes.wait(IN_TIME)
    child = os.fork()
    if not child:
        os._exit(3 if is_done else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3  # noqa: ASYNC222  # nothing else runs here
    writing.join()
    assert file.here == [True]


async def test_a_signal_handler_can_write_within_a_fork(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    park, left = thread.FileThread.park, [True]

    def interrupted(self: Any) -> None:
        park(self)
        if left:
            left.clear()
            signal.raise_signal(signal.SIGUSR1)

    def handle(signum: int, frame: FrameType | None) -> None:
        # the first one is the task of the thread of the file, which is parked
        run_unsuspended(file.blocking.txn([Transaction([], [Delete("test/other")])]))
        run_unsuspended(file.blocking.txn([Transaction([], [Put("test/nested", b"")])]))

    before = signal.signal(signal.SIGUSR1, handle)
    monkeypatch.setattr(thread.FileThread, "park", interrupted)
    try:
        child = os.fork()
        if not child:
            os._exit(3)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3  # noqa: ASYNC222  # nothing else runs here
    assert not left
    file.put("test/a")
    assert {"test/nested", "test/head", "test/a"} == set(file.entries())
