"""A job of every second: each node that registers it writes the one schedule."""

import asyncio

from peerjob import JobGroup

group = JobGroup()


@group.job(kind="tick", cron="* * * * * *", overlap="allow")
async def tick() -> None:
    """Take a moment, so that a node that is killed has one under way."""
    await asyncio.sleep(0.05)
