"""Processes with one SQLite file ring the bells of those that watch the keys, and no others."""

import contextlib
from pathlib import Path

import pytest

from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.sqlite.requests import request_of
from peerjob.store.sqlite.session import Session
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
        put = request_of(
            lambda transaction, _: transaction.apply([Transaction([], [Put(key, b"")])], None, ()),
            writes=True,
            durable=False,
        )
        writer.write([put], [])

        assert put.error is None
        assert watcher.heard() is rings
        assert not writer.heard()
