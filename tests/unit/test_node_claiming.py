"""What a node claims, and when: it never waits while it could run what is due."""

import asyncio

from peerjob import Job
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node


async def test_room_for_quick_kinds_does_not_make_slow_ones_wait(clock: VirtualClock) -> None:
    """Claims made while every worker is busy ask for quick kinds alone; that they find nothing says nothing."""

    async def quick() -> None:
        pass

    async def slow() -> None:
        await asyncio.sleep(0.2)

    async with running_node(Job("quick", quick), Job("slow", slow), clock=clock, workers=2) as node:
        await node.schedule("quick")
        await drain(node)
        began = clock.elapsed()

        for _ in range(20):
            await node.schedule("slow")
        await drain(node)

        assert clock.elapsed() - began < 3.0
