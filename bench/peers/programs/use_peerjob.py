"""peerjob with its defaults, which keep the result, the history and the arguments of each job for a day."""

import asyncio
import signal
import sys

import uvloop
from common import SLOTS, URL, hold_async, mark, pause_async, produce, produce_async

from peerjob import Job, Node


async def mark_async(n: int) -> None:
    mark(n)


JOBS = {
    "mark": Job("mark", mark_async),
    "pause": Job("pause", pause_async),
    "hold": Job("hold", hold_async),
}


async def work() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Node(URL, jobs=JOBS.values(), workers=SLOTS):
        await ended.wait()


async def main() -> None:
    # jobs in memory run in the process that schedules them, once it is told to work
    inside = URL.startswith("memory:")
    async with Node(URL, workers=SLOTS if inside else 0, allow_unknown=True) as node:

        async def many(job: str, numbers: range) -> None:
            await node.schedule_many([JOBS[job].call(n) for n in numbers])

        await produce_async(
            lambda job, n: node.schedule(JOBS[job], n), many, lambda: [node.register(one) for one in JOBS.values()]
        )


def block() -> None:
    with Node(URL, workers=0, allow_unknown=True).blocking() as node:
        produce(lambda job, n: node.schedule(JOBS[job], n))


if __name__ == "__main__" and sys.argv[1:] == ["sync"]:
    block()
elif __name__ == "__main__":
    uvloop.run(work() if sys.argv[1:] == ["work"] else main())
