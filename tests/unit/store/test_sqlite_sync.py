"""With `sync=full`, a transaction waits for the disk if it writes a key that does not end with a lease."""

from pathlib import Path

import pytest

from peerjob.model.clock import SystemClock
from peerjob.store.kv.format.base import Delete, Op, Put, Transaction
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.driver import SqliteKeyValue
from support.synced import seen_commits

KEPT = Put("test/kept", b"")
LEASED = "test/leased"
DELETED = Delete("test/a")
ALL_DELETED = Delete("test/b", "test/c")


@pytest.mark.parametrize("sync", ["full", "normal"])
@pytest.mark.parametrize(
    ("parts", "also", "waits"),
    [
        ([[KEPT]], None, True),
        ([[KEPT, DELETED]], None, True),
        ([[DELETED, KEPT]], None, True),
        ([[ALL_DELETED, KEPT]], None, True),
        ([[LEASED, KEPT]], None, True),
        ([[DELETED], [LEASED], [KEPT]], None, True),
        ([[DELETED]], [KEPT], True),
        ([[LEASED, DELETED]], [KEPT, ALL_DELETED], True),
        ([[LEASED]], None, False),
        ([[LEASED, DELETED]], [ALL_DELETED], False),
    ],
)
async def test_a_transaction_that_keeps_something_waits_for_the_disk(
    tmp_path: Path, sync: str, parts: list[list[Op | str]], also: list[Op | str] | None, waits: bool
) -> None:
    with seen_commits() as seen:
        kv = SqliteKeyValue(parse_address(f"sqlite://{tmp_path}/a.db?sync={sync}"), SystemClock())
        await kv.open()
        lease = await kv.grant(60_000_000)

        def transaction(part: list[Op | str]) -> Transaction:
            return Transaction([], [Put(one, b"", lease) if isinstance(one, str) else one for one in part])

        seen.clear()
        await kv.txn([transaction(part) for part in parts], None if also is None else transaction(also))
        (commit,) = seen
        await kv.close()

    assert commit.waited is (waits and sync == "full")
    assert [*commit.kept] == (["test/kept"] if waits else [])
