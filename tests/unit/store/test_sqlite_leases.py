"""Leases, revisions and deletions in a SQLite file, as one process of them sees them."""

import sqlite3
from collections.abc import Iterator

import pytest

from peerjob.store.kv.format.base import Compare, Delete, Put, Range, Transaction
from peerjob.store.sqlite.file import SCHEMA
from peerjob.store.sqlite.leases import NEVER, Leases
from peerjob.store.sqlite.table import Table
from peerjob.store.sqlite.transaction import SharedTransaction
from peerjob.testing import VirtualClock

SECOND = 1_000_000


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA:
        made.execute(statement)
    yield made
    made.close()


def transaction(
    connection: sqlite3.Connection, leases: Leases, *, revision: int = 0, now_us: int = 0
) -> SharedTransaction:
    return SharedTransaction(Table(connection), leases, url="sqlite:///x", revision=revision, now_us=now_us, heard=())


async def test_a_renewal_extends_a_lease_to_its_full_time_and_no_further(
    connection: sqlite3.Connection, clock: VirtualClock
) -> None:
    leases = Leases(connection, clock)
    leases.grant(1, 5 * SECOND)
    for _ in range(3):
        await clock.advance(2)
        assert leases.keepalive(1)
        assert leases.remaining_us(1) == 5 * SECOND
    assert leases.end_due() == 0
    await clock.advance(5)
    assert leases.end_due() == 1
    assert not leases.keepalive(1)
    assert leases.first_end_us() == NEVER


async def test_the_leases_of_an_earlier_boot_have_ended(connection: sqlite3.Connection, clock: VirtualClock) -> None:
    await clock.advance(10)
    leases = Leases(connection, clock)
    far = leases.now_us() + 1_000 * SECOND
    connection.execute("INSERT INTO lease VALUES (1, 'an earlier boot', ?, ?)", (far, 5 * SECOND))
    leases.grant(3, 5 * SECOND)
    # on a machine without a boot id, a lease with more to go than its time is of an earlier boot
    connection.execute("INSERT INTO lease SELECT 2, boot, ?, ? FROM lease WHERE id = 3", (far, SECOND))
    assert leases.first_end_us() <= leases.now_us()
    assert leases.end_due() == 2
    assert leases.remaining_us(3) == 5 * SECOND


async def test_the_keys_of_a_lease_end_with_it(connection: sqlite3.Connection, clock: VirtualClock) -> None:
    leases = Leases(connection, clock)
    leases.grant(1, 5 * SECOND)
    first = transaction(connection, leases)
    first.apply([Transaction([], [Put("a/held", b"", lease=1), Put("a/kept", b"")])], None, [])
    first.flush()
    leases.revoke(1)
    assert [key for key, _ in transaction(connection, leases).read(Range("a/", "a0")).items] == ["a/kept"]


async def test_revisions_follow_the_wall_clock(connection: sqlite3.Connection, clock: VirtualClock) -> None:
    leases = Leases(connection, clock)
    ahead = transaction(connection, leases, revision=5, now_us=1_000)
    assert [ahead.next_revision(), ahead.next_revision()] == [1_000, 1_001]
    behind = transaction(connection, leases, revision=5_000, now_us=1_000)
    assert behind.next_revision() == 5_001


async def test_a_key_of_a_deleted_range_is_gone_for_later_compares(
    connection: sqlite3.Connection, clock: VirtualClock
) -> None:
    leases = Leases(connection, clock)
    one = transaction(connection, leases)
    made = one.apply([Transaction([], [Put("a/1", b"x"), Put("b/1", b"x")])], None, [])
    one.apply([Transaction([], [Delete("a/", end="a0")])], None, [])
    gone, old, kept = (
        one.apply([Transaction([Compare("a/1")], [])], None, []),
        one.apply([Transaction([Compare("a/1", mod=made.revision)], [])], None, []),
        one.apply([Transaction([Compare("b/1", mod=made.revision)], [])], None, []),
    )
    assert [found.answers[0] is not None for found in (gone, old, kept)] == [True, False, True]


async def test_a_key_that_comes_back_in_the_same_commit_stays(
    connection: sqlite3.Connection, clock: VirtualClock
) -> None:
    one = transaction(connection, Leases(connection, clock))
    one.apply([Transaction([], [Put("a", b"old")])], None, [])
    one.flush()
    one.apply([Transaction([], [Delete("a")]), Transaction([], [Put("a", b"new")])], None, [])
    one.flush()
    ((_, entry),) = one.read(Range("a", "b")).items
    assert entry.value == b"new"
