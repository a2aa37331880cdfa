"""A start that a stop can end."""

import asyncio
import gc
import sys
from typing import Any

import pytest

from peerjob.node.manager.pending_start import PendingStart


def test_a_start_whose_event_loop_was_closed_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # asyncio tells of each task that it destroys

    async def start() -> None:
        await PendingStart("one").unless_stopped(asyncio.sleep(3600))

    starting = loop.create_task(start())
    loop.call_later(0, loop.stop)
    loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))
    assert not starting.done()
    loop.close()
    del starting
    gc.collect()
    assert errors == []
