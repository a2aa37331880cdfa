"""Jobs that end in each way, whose runs the tests of counts count."""

import asyncio

from peerjob import Fail, Job, Retry


async def sleep(seconds: float = 1) -> None:
    await asyncio.sleep(seconds)


def fail() -> None:
    raise Fail("never again")


def try_again() -> None:
    raise Retry


SLEEP = Job("sleep", sleep)
FAIL = Job("fail", fail)
RETRY = Job("retry", try_again, max_retries=2)
SLOW = Job("slow", sleep, timeout=1)
