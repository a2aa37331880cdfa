"""Measure an outbox on PostgreSQL: rows a second through one relay, and the time from a commit to the body.

Run it alone on a quiet machine: PYTHONPATH=bench:tests python bench/outbox.py
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from peerjob import Job, Node
from peerjob.sql import Outbox, OutboxRelay
from support.postgres import new_database, running_postgres
from support.servers import RedisServer

outbox = Outbox()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--single", type=int, default=500)
    parser.add_argument("--driver", default="psycopg", help="async-psycopg and asyncpg are asynchronous engines")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer() as server,
        running_postgres(Path(folder, "output")) as host,
        new_database(host) as database,
    ):
        engine = create_engine(database.url())
        relayed: Any = (
            create_engine(database.url())
            if given.driver == "psycopg"
            else create_async_engine(database.url(given.driver.removeprefix("async-")))
        )
        with engine.begin() as connection:
            outbox.create_table(connection)
        began: dict[int, float] = {}
        late: list[float] = []

        async def body(number: int) -> None:
            if number in began:
                late.append(time.perf_counter() - began[number])

        job = Job("body", body)
        with engine.begin() as connection:
            for first in range(0, given.rows, 10_000):
                outbox.schedule_many(connection, [job.call(-number - 1) for number in range(first, first + 10_000)])
        node = Node(server.url, workers=0, outbox=OutboxRelay(relayed), allow_unknown=True)
        start = time.perf_counter()
        async with node:
            while True:
                await asyncio.sleep(0.05)
                with engine.connect() as connection:
                    if not connection.execute(text("SELECT count(*) FROM peerjob_outbox")).scalar_one():
                        break
        took = time.perf_counter() - start
        print(f"{given.rows / took:,.0f} rows/s through one relay ({given.driver}, with the start of its node)")
        await _latency(server.url, engine, relayed, job, began, given.single)
        print(
            f"commit to body: p50 {1000 * statistics.median(late):.1f} ms, "
            f"p95 {1000 * sorted(late)[int(len(late) * 0.95)]:.1f} ms, {len(late)} rows"
        )
        engine.dispose()


async def _latency(
    url: str, engine: Any, relayed: Any, job: Job[..., Any, Any], began: dict[int, float], count: int
) -> None:
    def write(number: int) -> None:
        with engine.connect() as connection:
            outbox.schedule(connection, job.call(number))
            began[number] = time.perf_counter()
            connection.commit()

    async with Node(url, jobs=[job], namespace="latency", outbox=OutboxRelay(relayed)):
        await asyncio.sleep(2)
        for number in range(count):
            await asyncio.to_thread(write, number)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)


if __name__ == "__main__":
    uvloop.run(main())
