"""How a process waits for the write lock of another one."""

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from peerjob.model.clock import SystemClock
from peerjob.store.kv.format.base import Put, Transaction
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


async def test_reads_are_answered_while_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kv = SqliteKeyValue(parse_address(f"sqlite://{tmp_path}/a.db"), SystemClock())
    await kv.open()
    await kv.txn([Transaction([], [Put("test/a", b"")])])
    loop, waits, is_free = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    take = WriteLock.take

    def taken_when_free(lock: WriteLock) -> bool:
        if is_free.is_set():
            return take(lock)
        loop.call_soon_threadsafe(waits.set)
        return False

    monkeypatch.setattr(WriteLock, "take", taken_when_free)
    writing = asyncio.create_task(kv.txn([Transaction([], [Put("test/b", b"")])]))
    await waits.wait()
    (entry,) = await kv.get(["test/a"])
    assert entry is not None
    assert not writing.done()
    is_free.set()
    await writing
    await kv.close()
