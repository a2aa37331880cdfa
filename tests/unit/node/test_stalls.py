"""A blocked event loop is named as such, with the body that blocks it."""

import asyncio
import logging
import threading

import pytest

from peerjob import Job, Node, StoreUnavailableError
from peerjob.store.calls import answer_within


class Until(logging.Handler):
    """Sets an event when a record with this text is logged."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.logged = threading.Event()
        self.message = ""
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.message = record.getMessage()
            self.logged.set()


async def test_the_body_that_blocks_the_loop_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.node.observe.loop_stalls.BLOCKED_AFTER", 0.05)
    blocked, goes_on = Until("blocked for"), Until("goes on")
    named: list[str] = []

    async def block() -> str:
        return str(blocked.logged.wait(60))

    for handler in (blocked, goes_on):
        logging.getLogger("peerjob.node").addHandler(handler)
    try:
        async with Node(jobs=Job("block", block), lease_ttl=1) as node:
            instance = await node.schedule("block")
            assert await instance.result(timeout=60) == "True"
            named.append(instance.id)
            assert await asyncio.to_thread(goes_on.logged.wait, 60)
    finally:
        for handler in (blocked, goes_on):
            logging.getLogger("peerjob.node").removeHandler(handler)
    assert f"instance {named[0]} of 'block', at " in blocked.message


async def test_an_answer_that_a_blocked_loop_did_not_read_is_not_taken_for_one_that_did_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peerjob.store.calls.LATE", 0.1)

    async def ask() -> None:
        async with answer_within(0.01, url="redis://host"):
            await asyncio.Event().wait()

    asyncio.get_running_loop().call_soon(threading.Event().wait, 0.2)  # as a body on the loop does
    with pytest.raises(StoreUnavailableError, match="event loop of this process was blocked"):
        await ask()
    monkeypatch.setattr("peerjob.store.calls.LATE", 60.0)
    with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.01 s"):
        await ask()
