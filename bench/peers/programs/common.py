"""What the programs of all peers share: the mark that a body appends, and the commands that a producer obeys.

It runs in the venv of each peer, and so needs only the standard library.
"""

import asyncio
import itertools
import json
import os
import random
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

URL = os.environ.get("PEER_URL", "")
SLOTS = int(os.environ.get("PEER_SLOTS", "10"))
MARK = struct.Struct("<IId")
TOGETHER = 100
THREADS = 8
CHUNK = 1_000
HELD = 300.0
LATENCY = 1_000_000
"""The number of the first job whose latency is measured."""

_file = os.open(os.environ.get("PEER_MARKS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def mark(n: int) -> None:
    """Append 16 bytes: which job, which process, and the monotonic time that all processes of a machine share."""
    os.write(_file, MARK.pack(n, os.getpid(), time.monotonic()))


def pause(n: int) -> None:
    """Take 10 ms, in a thread or process."""
    time.sleep(0.010)
    mark(n)


def hold(n: int) -> None:
    """Run until the worker is killed, in a thread or process."""
    mark(n)
    time.sleep(HELD)


async def pause_async(n: int) -> None:
    """Take 10 ms, on an event loop."""
    await asyncio.sleep(0.010)
    mark(n)


async def hold_async(n: int) -> None:
    """Run until the worker is killed, on an event loop."""
    mark(n)
    await asyncio.sleep(HELD)


def produce(one: Callable[[str, int], object], many: Callable[[str, range], object] | None = None) -> None:
    """Obey the commands on stdin with a client that blocks; 100 at once are 100 threads."""
    _say({"bulk": many is not None})
    for line in sys.stdin:
        given = json.loads(line)
        job, count = given["job"], given["count"]
        begin = time.monotonic()
        match given["do"]:
            case "one":
                for n in range(count):
                    one(job, n)
            case "together":
                _in_threads(TOGETHER, one, job, count)
            case "threads":
                _in_threads(THREADS, one, job, count)
            case "bulk":
                assert many is not None
                for first in range(0, count, CHUNK):
                    many(job, range(first, min(first + CHUNK, count)))
            case "latency":
                _say({"sent": _send_each(one, job, count)})
                continue
        _say({"seconds": time.monotonic() - begin})


def _in_threads(threads: int, one: Callable[[str, int], object], job: str, count: int) -> None:
    turns = iter(range(count))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_repeat, one, job, turns) for _ in range(threads)]:
            done.result()


def _repeat(one: Callable[[str, int], object], job: str, turns: Any) -> None:
    for n in turns:
        one(job, n)


def _send_each(one: Callable[[str, int], object], job: str, count: int) -> list[float]:
    """Send a job, wait until it has run, and rest for a moment; returns the times before each call."""
    sent: list[float] = []
    before = _marks()
    for n in range(count):
        sent.append(time.monotonic())
        one(job, LATENCY + n)
        for _ in _waiting(before + n + 1):
            time.sleep(0.001)
        time.sleep(random.uniform(0.005, 0.015))
    return sent


async def produce_async(
    one: Callable[[str, int], Awaitable[object]],
    many: Callable[[str, range], Awaitable[object]] | None = None,
    work: Callable[[], object] | None = None,
) -> None:
    """Obey the commands on stdin with an asynchronous client; 100 at once are 100 tasks."""
    loop = asyncio.get_running_loop()
    _say({"bulk": many is not None})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        given = json.loads(line)
        job, count = given["job"], given["count"]
        begin = time.monotonic()
        match given["do"]:
            case "one":
                for n in range(count):
                    await one(job, n)
            case "together":
                turns = iter(range(count))
                await asyncio.gather(*(_repeat_async(one, job, turns) for _ in range(TOGETHER)))
            case "bulk":
                assert many is not None
                for first in range(0, count, CHUNK):
                    await many(job, range(first, min(first + CHUNK, count)))
            case "latency":
                _say({"sent": await _send_each_async(one, job, count)})
                continue
            case "work":
                assert work is not None
                work()
        _say({"seconds": time.monotonic() - begin})


async def _repeat_async(one: Callable[[str, int], Awaitable[object]], job: str, turns: Any) -> None:
    for n in turns:
        await one(job, n)


async def _send_each_async(one: Callable[[str, int], Awaitable[object]], job: str, count: int) -> list[float]:
    sent: list[float] = []
    before = _marks()
    for n in range(count):
        sent.append(time.monotonic())
        await one(job, LATENCY + n)
        for _ in _waiting(before + n + 1):
            await asyncio.sleep(0.001)
        await asyncio.sleep(random.uniform(0.005, 0.015))
    return sent


def _marks() -> int:
    return os.fstat(_file).st_size // MARK.size


def _waiting(marks: int) -> Any:
    """Yields until the file has so many marks; raises TimeoutError after 20 s."""
    begin = time.monotonic()
    for _ in itertools.takewhile(lambda _: _marks() < marks, itertools.count()):
        if time.monotonic() > begin + 20:
            raise TimeoutError("a job did not run within 20 s")
        yield


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)
