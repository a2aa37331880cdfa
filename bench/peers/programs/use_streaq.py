"""streaq: an event loop, and Redis streams. It keeps a result for a second here."""

import sys
from datetime import timedelta

import uvloop
from common import SLOTS, URL, hold_async, mark, pause_async, produce_async
from streaq import Worker

worker = Worker(redis_url=URL, concurrency=SLOTS, anyio_kwargs={"use_uvloop": True})


@worker.task(name="mark", ttl=timedelta(seconds=1))
async def run_mark(n: int) -> None:
    mark(n)


@worker.task(name="pause", ttl=timedelta(seconds=1))
async def run_pause(n: int) -> None:
    await pause_async(n)


@worker.task(name="hold", ttl=timedelta(seconds=1))
async def run_hold(n: int) -> None:
    await hold_async(n)


JOBS = {"mark": run_mark, "pause": run_pause, "hold": run_hold}


async def main() -> None:
    async with worker:

        async def one(job: str, n: int) -> None:
            await JOBS[job].enqueue(n)

        async def many(job: str, numbers: range) -> None:
            await worker.enqueue_many([JOBS[job].enqueue(n) for n in numbers])

        await produce_async(one, many)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        worker.run_sync()
    else:
        uvloop.run(main())
