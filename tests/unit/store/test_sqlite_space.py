"""When a SQLite file takes no new instances: with its free space, the end of the instances that it has must fit."""

from pathlib import Path

import pytest

from peerjob.model.clock import SystemClock
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.sqlite import session
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.driver import SqliteKeyValue
from peerjob.store.sqlite.file import StoreFile
from peerjob.store.sqlite.session import reserve_of
from peerjob.store.sqlite.transaction import PAGE

SIZE = 1 << 40


async def written(kv: SqliteKeyValue, *ops: Put) -> None:
    """Write. The thread of the file notes the space that is left before its next answer, so wait for one."""
    await kv.txn([Transaction([], list(ops))])
    await kv.get(["test/a"])


@pytest.mark.parametrize(("size", "reserve"), [(1 << 40, 32 << 20), (100 << 20, 20 << 20), (10, 2)])
def test_the_reserve_is_a_part_of_a_small_file_system(size: int, reserve: int) -> None:
    assert reserve_of(size) == reserve


@pytest.mark.parametrize(("pages", "full"), [(-1, True), (1_000, False)])
async def test_the_free_space_has_a_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int, full: bool
) -> None:
    kv = SqliteKeyValue(parse_address(f"sqlite://{tmp_path}/a.db"), SystemClock())
    free = reserve_of(SIZE) + pages * PAGE
    monkeypatch.setattr(StoreFile, "free_bytes", lambda self: (free, SIZE))
    await kv.open()
    await written(kv, Put("test/a", b""))
    assert kv.full is full
    await kv.close()


async def test_the_log_counts_as_taken_until_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kv = SqliteKeyValue(parse_address(f"sqlite://{tmp_path}/a.db"), SystemClock())
    monkeypatch.setattr(StoreFile, "free_bytes", lambda self: (reserve_of(SIZE) + 20 * PAGE, SIZE))
    monkeypatch.setattr(session, "CHECKPOINT_FROM", 1 << 30)
    await kv.open()
    await written(kv, Put("test/a", b""))
    assert not kv.full
    await written(kv, *(Put(f"test/{number}", bytes(PAGE)) for number in range(40)))
    assert kv.full
    await kv.close()
