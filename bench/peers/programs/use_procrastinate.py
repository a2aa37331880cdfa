"""Procrastinate: an event loop, and PostgreSQL with LISTEN and NOTIFY. It deletes what has ended here."""

import logging
import sys

import uvloop
from common import SLOTS, URL, hold_async, mark, pause_async, produce, produce_async
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

BLOCKS = sys.argv[1:] == ["sync"]
app = App(connector=(SyncPsycopgConnector if BLOCKS else PsycopgConnector)(conninfo=URL, max_size=20))


@app.task(name="mark")
async def run_mark(n: int) -> None:
    mark(n)


@app.task(name="pause")
async def run_pause(n: int) -> None:
    await pause_async(n)


@app.task(name="hold")
async def run_hold(n: int) -> None:
    await hold_async(n)


JOBS = {"mark": run_mark, "pause": run_pause, "hold": run_hold}


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=SLOTS, delete_jobs="successful")


async def main() -> None:
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()

        async def many(job: str, numbers: range) -> None:
            await JOBS[job].batch_defer_async(*({"n": n} for n in numbers))

        await produce_async(lambda job, n: JOBS[job].defer_async(n=n), many)


def block() -> None:
    with app.open():
        if not app.check_connection():
            app.schema_manager.apply_schema()
        produce(lambda job, n: JOBS[job].defer(n=n))


if __name__ == "__main__" and BLOCKS:
    block()
elif __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(work() if sys.argv[1:] == ["work"] else main())
