"""Processes with one SQLite file ring the bells of those that watch the keys, and no others."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.sqlite.requests import Request, request_of
from peerjob.store.sqlite.session import Session
from peerjob.store.sqlite.table import Table
from peerjob.store.sqlite.watch import SqliteWatch
from peerjob.testing import VirtualClock


@pytest.mark.parametrize(("key", "rings"), [("test/watched/a", True), ("test/other/a", False)])
async def test_a_process_rings_those_that_watch_the_key(
    tmp_path: Path, clock: VirtualClock, key: str, rings: bool
) -> None:
    path = tmp_path / "a.db"
    with contextlib.ExitStack() as cleanup:
        watcher, writer = (Session(path, f"sqlite://{path}", clock) for _ in range(2))
        cleanup.callback(watcher.close)
        cleanup.callback(writer.close)
        watcher.register([SqliteWatch(("test/watched/",), 0, lambda _: None)])
        put = _put(key)
        writer.write([put], [])

        assert put.error is None
        assert watcher.heard() is rings
        assert not writer.heard()


async def test_a_process_that_has_ended_is_registered_no_more(tmp_path: Path, clock: VirtualClock) -> None:
    """It could not say so. The next process that would ring its bell removes it, and no other one."""
    path = tmp_path / "a.db"
    with contextlib.ExitStack() as cleanup:
        watcher, writer, ended = (Session(path, f"sqlite://{path}", clock) for _ in range(3))
        cleanup.callback(watcher.close)
        cleanup.callback(writer.close)
        for session in (watcher, ended):
            session.register([SqliteWatch(("test/watched/",), 0, lambda _: None)])
        ended.close()
        assert _registered(path) == 2
        put = _put("test/watched/a")
        writer.write([put], [])
        writer.register([])
        assert watcher.heard()
        assert _registered(path) == 1


@pytest.fixture
def pair(tmp_path: Path, clock: VirtualClock) -> Iterator[tuple[Session, Session]]:
    """Sessions of two processes that share a file."""
    path = tmp_path / "a.db"
    own, other = (Session(path, f"sqlite://{path}", clock) for _ in range(2))
    with contextlib.closing(own), contextlib.closing(other):
        yield own, other


@pytest.mark.parametrize("ticks", [False, True])
async def test_a_watch_tells_what_its_own_process_put_once(pair: tuple[Session, Session], ticks: bool) -> None:
    """Neither when another process has put a key, nor after the look of each second has found nothing."""
    own, other = pair
    watch = SqliteWatch(("test/watched/",), own.revision, lambda _: None)
    own.register([watch])
    own.tick([watch])
    own.write([_put("test/watched/own")], [watch])
    assert await watch.changed(0) == {"test/watched/own": b""}
    if ticks:
        own.tick([watch])
    other.write([_put("test/watched/other")], [])
    own.look([watch])
    assert await watch.changed(0) == {"test/watched/other": b""}


async def test_a_look_that_failed_is_repeated(pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = pair
    watch = SqliteWatch(("test/watched/",), own.revision, lambda _: None)
    own.tick([watch])
    other.write([_put("test/watched/a")], [])
    with monkeypatch.context() as broken:
        broken.setattr(Table, "newer", _failing)
        with pytest.raises(sqlite3.OperationalError):
            own.tick([watch])
    own.tick([watch])
    assert await watch.changed(0) == {"test/watched/a": b""}


def _failing(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


def _put(key: str) -> Request:
    return request_of(
        lambda transaction, _: transaction.apply([Transaction([], [Put(key, b"")])], None, ()),
        writes=True,
        durable=False,
    )


def _registered(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM watch").fetchone()
    return int(count)
