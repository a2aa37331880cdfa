"""How late many schedules fire, on real nodes of which one leads."""

import asyncio
import statistics
from datetime import UTC, datetime, timedelta

import jobs
from measures import Target, fresh_namespace
from peerjob import Node
from processes import worker_processes

ACTIVE = 6_000
"""The number of schedules that fire once a minute. The same number of them fires in every second."""
IDLE = 4_000
"""The number of schedules that the leader only remembers: each fires on the next 29th of February."""
READERS = 20


async def fire_delays(target: Target, *, seconds: int = 30) -> dict[str, float]:
    """Milliseconds from a nominal time to its record in the ledger: with 10,000 schedules, 100 due each second."""
    namespace = fresh_namespace()
    async with Node(target.url, namespace=namespace, workers=0) as client:
        for number in range(ACTIVE):
            cron = f"{number % 60} * * * * *"
            await client.add_schedule(jobs.NOOP.with_options(cron=cron, name=f"every-minute-{number}"), number)
        for number in range(IDLE):
            await client.add_schedule(jobs.NOOP.with_options(cron="0 0 29 2 *", name=f"leap-day-{number}"), number)
    async with worker_processes(target.url, namespace, count=2, workers=10) as workers:
        await asyncio.gather(*(worker.go() for worker in workers))
        # within ten seconds, a leader is elected and fires all schedules that became due during the setup
        begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=10)
        end = begin + timedelta(seconds=seconds)
        await asyncio.sleep((end - datetime.now(UTC)).total_seconds() + 1)
    async with Node(target.url, namespace=namespace, workers=0) as client:
        due = [f"every-minute-{number}" for number in range(ACTIVE) if (number % 60 - begin.second) % 60 < seconds]
        limit = asyncio.Semaphore(READERS)

        async def delay(name: str) -> float:
            async with limit:
                (fire,) = await client.fires(name, after=begin, before=end)
            assert fire.instance_id is not None, f"{name} was {fire.outcome}: {fire.reason}"
            return fire.late / timedelta(milliseconds=1)

        delays = sorted(await asyncio.gather(*map(delay, due)))
        await client.clear()
    return {"p50": statistics.median(delays), "p99": delays[int(len(delays) * 0.99)]}
