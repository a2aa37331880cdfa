"""One seed gives a test cluster one course of events, to the last microsecond."""

import asyncio
import random
import time

from peerjob import INJECTED, Context, Job
from peerjob.node.manager.loop_pauses import MAX_STRETCH, map_with_pauses
from peerjob.testing import TestCluster, VirtualClock


async def eventful(seed: int) -> list[str]:
    """A night of failures; the result is the whole trace."""
    chance = random.Random(0)

    async def unsteady(seconds: float = 0, context: Context = INJECTED) -> None:
        await asyncio.sleep(seconds)
        if context.attempt < 3:
            raise ConnectionError(f"attempt {context.attempt}")

    job = Job("unsteady", unsteady, max_retries=5, backoff="2s", jitter="1s")
    tick = Job("tick", unsteady, every="20s", max_retries=1)
    async with TestCluster(nodes=3, jobs=[job, tick], seed=seed) as cluster:
        for turn in range(6):
            for _ in range(4):
                await cluster.schedule(job, chance.choice([0, 0.2, 3]))
            await cluster.store_fails("turn", 2, how="lost answer")
            await cluster.advance(chance.choice([0.3, 2, 7]))
            match turn:
                case 0:
                    await cluster.kill(await cluster.elected())
                case 1:
                    await cluster.pause(cluster.nodes[0])
                case 2:
                    await cluster.resume(cluster.nodes[0])
                case 3:
                    await cluster.partition(cluster.nodes[-1])
                case 4:
                    await cluster.heal()
                case _:
                    await cluster.slow("enqueue", "1s")
        await cluster.run_until_idle()
        return [f"{event.elapsed:.6f} {event}" for event in cluster.trace]


async def test_one_seed_gives_one_course_of_events() -> None:
    first = await eventful(1)
    assert first == await eventful(1)
    assert len(first) > 200
    assert first != await eventful(2)


async def test_a_node_that_starts_again_draws_other_numbers() -> None:
    async with TestCluster(nodes=1) as cluster:
        first = cluster.node("node-1").incarnation
        await cluster.kill("node-1")
        again = (await cluster.restart("node-1")).incarnation
    assert first[-12:] != again[-12:], "of the same time, their ids would be the same"


async def test_how_busy_the_machine_is_changes_no_order(clock: VirtualClock) -> None:
    turns: list[int] = []

    def busy(number: int) -> int:
        until = time.perf_counter() + 2 * MAX_STRETCH
        while time.perf_counter() < until:
            pass
        return len(turns)

    await clock.settle()
    asyncio.get_running_loop().call_soon(turns.append, 1)
    assert await map_with_pauses(range(3), busy) == [0, 0, 0]
