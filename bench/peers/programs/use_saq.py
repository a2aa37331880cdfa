"""saq: an event loop, and Redis lists. It keeps no results here."""

import logging
import sys
from typing import Any

import uvloop
from common import SLOTS, URL, hold_async, mark, pause_async, produce_async
from saq import Queue, Worker


async def run_mark(_: Any, *, n: int) -> None:
    mark(n)


async def run_pause(_: Any, *, n: int) -> None:
    await pause_async(n)


async def run_hold(_: Any, *, n: int) -> None:
    await hold_async(n)


async def work() -> None:
    logging.basicConfig(level=logging.WARNING)
    worker = Worker(Queue.from_url(URL), [run_mark, run_pause, run_hold], concurrency=SLOTS)
    await worker.start()


async def main() -> None:
    queue = Queue.from_url(URL)
    await queue.connect()
    # ttl=-1: the job is deleted when it has ended
    await produce_async(lambda job, n: queue.enqueue(f"run_{job}", n=n, ttl=-1))


if __name__ == "__main__":
    uvloop.run(work() if sys.argv[1:] == ["work"] else main())
