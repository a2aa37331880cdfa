"""docket: an event loop that polls Redis streams. It keeps nothing here, and polls every millisecond, not every 250."""

import logging
import sys
from datetime import timedelta

import uvloop
from common import SLOTS, URL, hold_async, mark, pause_async, produce_async
from docket import Docket, Worker


async def run_mark(n: int) -> None:
    mark(n)


async def run_pause(n: int) -> None:
    await pause_async(n)


async def run_hold(n: int) -> None:
    await hold_async(n)


JOBS = {"mark": run_mark, "pause": run_pause, "hold": run_hold}


def docket() -> Docket:
    made = Docket(name="peers", url=URL, execution_ttl=timedelta(0))
    for job in JOBS.values():
        made.register(job)
    return made


async def work() -> None:
    logging.basicConfig(level=logging.WARNING)
    async with (
        docket() as opened,
        Worker(opened, concurrency=SLOTS, minimum_check_interval=timedelta(milliseconds=1)) as worker,
    ):
        await worker.run_forever()


async def main() -> None:
    async with docket() as opened:

        async def many(job: str, numbers: range) -> None:
            await opened.add_many([opened.call(JOBS[job])(n) for n in numbers])

        await produce_async(lambda job, n: opened.add(JOBS[job])(n), many)


if __name__ == "__main__":
    uvloop.run(work() if sys.argv[1:] == ["work"] else main())
