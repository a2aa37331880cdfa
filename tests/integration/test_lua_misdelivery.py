"""No reply reaches another call, while calls are cancelled, time out, and lose their connections."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvloop

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.client.redis_driver import RedisDriver
from peerjob.store.lua.client.replies import ServerError
from peerjob.store.lua.scripts.script import Argument
from support.division import in_matrix
from support.servers import StartServer

CALLERS, CALLS = 40, 60
TIMEOUTS = (0.001, 0.002, 0.005, 0.02, 1.0, 1.0)
SIZES = (0, 10, 1_000, 100_000)


class Caller:
    """Makes calls whose replies name the call, and counts what becomes of them."""

    def __init__(self, driver: RedisDriver, name: str, seed: int) -> None:
        self._send: Callable[..., Awaitable[list[Any]]] = partial(vars(RedisDriver)["_send"], driver)
        self._name = name
        self._random = random.Random(seed)
        self.ends = Counter[str]()

    async def run(self) -> None:
        for number in range(CALLS):
            await self._call(f"{self._name}-{number}")

    async def _call(self, name: str) -> None:
        draw = self._random
        texts = [f"{name}-{at}-{'x' * draw.choice(SIZES)}" for at in range(draw.choice((1, 1, 3)))]
        known = [draw.random() < 0.8 for _ in texts]
        commands: list[tuple[Argument, ...]] = [
            ("ECHO" if one else f"NO-{name}", text) for one, text in zip(known, texts, strict=True)
        ]
        if waits := draw.random() < 0.2:
            commands.insert(0, ("BLMPOP", "0.005", 1, name, "LEFT"))
        call = asyncio.ensure_future(self._send(commands, draw.choice(TIMEOUTS), alone=waits))
        if ends := draw.random() < 0.3:
            for _ in range(draw.randrange(12)):
                await asyncio.sleep(0)
            call.cancel()
        try:
            replies = await call
        except asyncio.CancelledError:
            if not ends:
                raise  # the test ends
            self.ends["cancelled"] += 1
        except StoreUnavailableError:
            self.ends["lost"] += 1
        else:
            self.ends["answered"] += 1
            if waits:
                assert replies.pop(0) is None
            # compared outside of the assertion, because pytest takes minutes to compare two long texts
            own = [
                reply == text.encode() if one else isinstance(reply, ServerError) and f"'NO-{name}'" in str(reply)
                for one, text, reply in zip(known, texts, replies, strict=True)
            ]
            assert all(own), [str(reply)[:40] for reply in replies]


@pytest.mark.parametrize(
    "run", [asyncio.run, in_matrix(uvloop.run, "the loop of asyncio stays in make test")], ids=["asyncio", "uvloop"]
)
def test_no_reply_reaches_another_call(start_server: StartServer, run: Callable[[Any], None], namespace: str) -> None:
    """The server pauses, and closes connections, so replies are late or come in part."""
    server = start_server("redis")

    async def harm(harmed: asyncio.Event) -> None:
        draw = random.Random(1)
        while not harmed.is_set():
            pause = ("CLIENT", "PAUSE", draw.randrange(2, 30))
            await asyncio.to_thread(server.command, *pause)
            await asyncio.sleep(draw.uniform(0.01, 0.05))
            await asyncio.to_thread(server.command, "CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")

    async def calls() -> None:
        driver = RedisDriver(parse_address(server.url), namespace=namespace, call_timeout=1.0)
        callers = [Caller(driver, str(number), number) for number in range(CALLERS)]
        harmed = asyncio.Event()
        harming = asyncio.create_task(harm(harmed))
        try:
            async with asyncio.TaskGroup() as group:
                for caller in callers:
                    group.create_task(caller.run())
        finally:
            harmed.set()
            await harming
            await driver.close()
        ends = sum((caller.ends for caller in callers), Counter[str]())
        assert ends.total() == CALLERS * CALLS
        assert min(ends[end] for end in ("answered", "cancelled", "lost")) > CALLERS, ends

    run(calls())
