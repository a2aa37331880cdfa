"""Failures: retries, backoff, final errors, snoozing, timeouts, and a processor of the last error.

Run it with `python examples/retries.py`.
"""

import asyncio
import os
from typing import Any

from peerjob import INJECTED, Backoff, Context, Fail, Instance, JobFailed, JobTimedOut, Node, Recovered, Retry, job


@job(
    kind="unreliable",
    max_retries=5,
    retry_on=ConnectionError,
    backoff=Backoff.exponential(initial="50ms", max="1s"),
)
async def unreliable(context: Context = INJECTED) -> str:
    if context.attempt < 3:
        raise ConnectionError(f"attempt {context.attempt} found no server")
    return f"done at attempt {context.attempt}"


@job(kind="rate_limited", max_retries=5)
async def rate_limited(context: Context = INJECTED) -> str:
    if context.attempt == 1:
        raise Retry(after="100ms", reason="the server said: come back in 100 ms")
    return "served"


@job(kind="hopeless", max_retries=5)
async def hopeless() -> None:
    # Fail ends the job without a retry, even if max_retries allows more attempts
    raise Fail("this address cannot exist")


def fall_back(instance: Instance[Any], error: BaseException) -> Recovered:
    """Runs where an attempt failed. Its return value may turn the failure into a result."""
    return Recovered(f"a guess, because of {error}")


@job(kind="forgiven", on_terminate=fall_back)
def forgiven() -> str:
    raise LookupError("no such row")


@job(kind="too_slow", timeout="100ms", max_retries=1)
async def too_slow() -> None:
    await asyncio.sleep(60)


async def main() -> None:
    store = os.environ.get("PEERJOB_STORE", "memory://")
    async with Node(store, jobs=[unreliable, rate_limited, hopeless, forgiven, too_slow]) as node:
        one = await node.schedule(unreliable)
        print("unreliable:", await one.result(timeout=30))
        for entry in await one.history():
            print(f"  {entry.state} {entry.note}".rstrip())
        print("rate_limited:", await (await node.schedule(rate_limited)).result(timeout=30))
        print("forgiven:", await (await node.schedule(forgiven)).result(timeout=30))
        try:
            await (await node.schedule(hopeless)).result(timeout=30)
        except JobFailed as failure:
            print("hopeless:", failure)
        slow = await node.schedule(too_slow)
        try:
            await slow.result(timeout=30)
        except JobTimedOut as failure:
            print(f"too_slow: {failure}, {(await slow.refresh()).attempts} times")


if __name__ == "__main__":
    asyncio.run(main())
