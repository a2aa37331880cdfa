"""A Redis list without any scheduler: LPUSH and BRPOP. Nothing is kept, retried or given back."""

import asyncio
import sys

import uvloop
from common import SLOTS, URL, mark, pause_async, produce_async
from redis.asyncio import BlockingConnectionPool, Redis


def client() -> Redis:
    return Redis(connection_pool=BlockingConnectionPool.from_url(URL, max_connections=50))


async def work() -> None:
    redis = client()

    async def loop() -> None:
        while True:
            _, told = await redis.brpop(["jobs"])
            job, n, _ = told.split()
            if job == b"pause":
                await pause_async(int(n))
            else:
                mark(int(n))

    await asyncio.gather(*(loop() for _ in range(SLOTS)))


async def main() -> None:
    redis = client()

    async def many(job: str, numbers: range) -> None:
        async with redis.pipeline(transaction=False) as pipe:
            for n in numbers:
                pipe.lpush("jobs", f"{job} {n} {'x' * 100}")
            await pipe.execute()

    await produce_async(lambda job, n: redis.lpush("jobs", f"{job} {n} {'x' * 100}"), many)


if __name__ == "__main__":
    uvloop.run(work() if sys.argv[1:] == ["work"] else main())
