"""How a process waits for the write lock of another one."""

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
