"""How a process waits for the write lock of another one."""

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from peerjob.model.clock import SystemClock
from peerjob.store.kv.format.base import Compare, Put, Transaction
from peerjob.store.sqlite import thread
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.driver import SqliteKeyValue
from peerjob.store.sqlite.write_lock import WriteLock

TRIES = 40
LONGEST = 0.01


async def test_the_pauses_between_looks_at_the_lock_stay_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kv = SqliteKeyValue(parse_address(f"sqlite://{tmp_path}/a.db"), SystemClock())
    await kv.open()
    pauses: list[float] = []
    refusals = [False] * TRIES
    take = WriteLock.take

    def sleep(seconds: float) -> None:
        pauses.append(seconds)

    def refused_at_first(lock: WriteLock) -> bool:
        return refusals.pop() if refusals else take(lock)

    monkeypatch.setattr(thread, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    monkeypatch.setattr(WriteLock, "take", refused_at_first)
    await kv.txn([Transaction([], [Put("test/a", b"")])])
    await kv.close()
    assert len(pauses) >= TRIES
    assert max(pauses) <= LONGEST


class HeldLock:
    """The write lock, which another process has until `free` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop, is_free, take = asyncio.get_running_loop(), threading.Event(), WriteLock.take
        self.waits = asyncio.Event()
        """Set when this process has asked for the lock."""
        self.free = is_free.set

        def taken_when_free(lock: WriteLock) -> bool:
            if is_free.is_set():
                return take(lock)
            loop.call_soon_threadsafe(self.waits.set)
            return False

        monkeypatch.setattr(WriteLock, "take", taken_when_free)


async def test_reads_are_answered_while_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kv = SqliteKeyValue(parse_address(f"sqlite://{tmp_path}/a.db"), SystemClock())
    await kv.open()
    await kv.txn([Transaction([], [Put("test/a", b"")])])
    lock = HeldLock(monkeypatch)
    writing = asyncio.create_task(kv.txn([Transaction([], [Put("test/b", b"")])]))
    await lock.waits.wait()
    (entry,) = await kv.get(["test/a"])
    assert entry is not None
    assert not writing.done()
    lock.free()
    await writing
    await kv.close()


async def test_a_write_sees_what_a_lease_before_it_has_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are in one transaction of SQLite."""
    kv = SqliteKeyValue(parse_address(f"sqlite://{tmp_path}/a.db"), SystemClock())
    await kv.open()
    lease = await kv.grant(60_000_000)
    await kv.txn([Transaction([], [Put("test/a", b"", lease)])])
    lock, unless_there = HeldLock(monkeypatch), Transaction([Compare("test/a")], [Put("test/b", b"")])
    before = asyncio.create_task(kv.txn([unless_there]))
    revoking = asyncio.create_task(kv.revoke(lease))
    after = asyncio.create_task(kv.txn([unless_there]))
    await lock.waits.wait()
    lock.free()
    await revoking
    assert [(await writing).answers[0] is not None for writing in (before, after)] == [False, True]
    await kv.close()
