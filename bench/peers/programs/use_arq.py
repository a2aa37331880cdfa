"""arq: an event loop that polls Redis. It keeps no results here, and polls every millisecond instead of every 500."""

import logging
import sys
from typing import Any

import uvloop
from arq import Worker, create_pool
from arq.connections import RedisSettings
from common import SLOTS, URL, hold_async, mark, pause_async, produce_async

REDIS = RedisSettings.from_dsn(URL)


async def run_mark(_: Any, n: int) -> None:
    mark(n)


async def run_pause(_: Any, n: int) -> None:
    await pause_async(n)


async def run_hold(_: Any, n: int) -> None:
    await hold_async(n)


async def work() -> None:
    logging.basicConfig(level=logging.WARNING)
    worker = Worker(
        [run_mark, run_pause, run_hold],
        redis_settings=REDIS,
        max_jobs=SLOTS,
        keep_result=0,
        poll_delay=0.001,
    )
    await worker.async_run()


async def main() -> None:
    pool = await create_pool(REDIS)
    await produce_async(lambda job, n: pool.enqueue_job(f"run_{job}", n))


if __name__ == "__main__":
    uvloop.run(work() if sys.argv[1:] == ["work"] else main())
