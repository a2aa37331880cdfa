"""The first thing to try: a node that schedules work and runs it.

    python examples/script.py

Everything happens in this process, unless PEERJOB_STORE names a shared store, such as redis://localhost. Then all nodes
with these jobs share the work.
"""

import asyncio
import os
from datetime import timedelta

from peerjob import INJECTED, Context, Instance, Job, JobFailed, Node, job


def add(x: int, y: int) -> int:
    return x + y


sum_job = Job("sum", add)


@job(kind="concat")
def concat(a: str, b: str) -> str:
    return f"{a}, {b}"


@job(kind="count_down")
async def count_down(steps: int, pause: timedelta, context: Context = INJECTED) -> str:
    for step in range(steps):
        context.progress(step / steps, f"{steps - step} to go")
        await asyncio.sleep(pause.total_seconds())
    return "lift-off"


@job(kind="divide")
def divide(a: int, b: int, instance: Instance = INJECTED) -> float:
    instance.log.info("dividing %d by %d", a, b)
    return a / b


async def main() -> None:
    store = os.environ.get("PEERJOB_STORE", "memory://")
    async with Node(store, jobs=[sum_job, concat, count_down, divide], workers=4) as node:
        one = await node.schedule(sum_job, 42, 58)
        two = await node.schedule("concat", "Hello", "world")  # a job can also be named by its kind
        three = await node.schedule(count_down.with_options(after="200ms"), 3, timedelta(milliseconds=50))
        print("sum:", await one.result(timeout=10))
        print("concat:", await two.result(timeout=10))
        print("count_down:", await three.result(timeout=10))

        # text arguments, such as those of a form, are converted to the types of the function's parameters
        print("sum of text:", await (await node.schedule("sum", "1", "2")).result(timeout=10))

        calls = [sum_job.call(number, number) for number in range(100)]
        doubled = await asyncio.gather(*(each.result(timeout=10) for each in await node.schedule_many(calls)))
        print("a hundred at once:", sum(doubled))

        broken = await node.schedule(divide, 1, 0)
        try:
            await broken.result(timeout=10)
        except JobFailed as failure:
            print("divide:", failure)
        for line in await broken.logs():
            print(f"  it said: {line.level.name} {line.message}")
        for entry in await broken.history():
            print(f"  it was: {entry.state}")


if __name__ == "__main__":
    asyncio.run(main())
