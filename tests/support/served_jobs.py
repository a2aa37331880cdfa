"""Jobs of the node that tests manage from outside."""

import asyncio
from datetime import timedelta
from typing import Any

from peerjob import INJECTED, Instance, job


@job(kind="add", description="adds two numbers")
def add(x: int, y: int) -> int:
    return x + y


@job(kind="fail")
def fail(reason: str) -> None:
    raise ValueError(reason)


@job(kind="slow")
async def slow(lines: int, pause: timedelta, instance: Instance[Any] = INJECTED) -> str:
    for number in range(lines):
        instance.log.info("line %d", number)
        await asyncio.sleep(pause.total_seconds())
    return "done"


@job(kind="nightly", cron="0 3 * * *", description="recurs")
def nightly() -> None:
    pass
