"""The gRPC service under rubbish for a minute, on Redis: it stays up, answers properly, and grows no more."""

import asyncio
import random
import time
from pathlib import Path

import grpc
import pytest

from peerjob import Client, Job
from support.rpc import RawClient, raw_client, served
from support.rubbish import rubbish

Code = grpc.StatusCode
PROPER = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED}
LARGE = 17 << 20
SECONDS = 60


async def throw(client: RawClient, chance: random.Random, until: float) -> int:
    thrown = 0
    while time.monotonic() < until:
        name, data = rubbish(chance)
        if chance.random() < 0.002:
            assert await client.code(name, data + b"\x00" * LARGE, timeout=5) is Code.RESOURCE_EXHAUSTED
        code = await client.code(name, data, timeout=0.5)
        assert code in PROPER, f"{name} {data!r}: {code}"
        thrown += 1
    return thrown


def resident() -> int:
    """Bytes of memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 60)
async def test_rubbish_for_a_minute(redis_url: str) -> None:
    jobs = (Job("sum", lambda x, y: x + y), Job("echo", lambda *args, **kwargs: None))
    async with served(*jobs, store=redis_url) as (node, server), raw_client(server.target) as client:
        chances = [random.Random(seed) for seed in range(8)]
        await asyncio.gather(*(throw(client, chance, time.monotonic() + 10) for chance in chances))
        before = resident()
        until = time.monotonic() + SECONDS - 10
        thrown = sum(await asyncio.gather(*(throw(client, chance, until) for chance in chances)))

        assert thrown > 5_000
        assert resident() - before < 100 << 20
        async with Client(server.target) as ours:
            assert await ours.count() == await node.count()
