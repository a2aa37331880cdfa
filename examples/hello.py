"""Two nodes, one of which you can kill.

`python examples/hello.py` runs a node: start two. `python examples/hello.py 100` schedules a hundred jobs and waits for
their results.
"""

import asyncio
import os
import sys

from peerjob import Node, job


@job(kind="hello")
async def hello(number: int) -> str:
    await asyncio.sleep(1)
    print(f"process {os.getpid()} says hello {number}", flush=True)
    return f"hello {number}"


async def main() -> None:
    store = os.environ.get("PEERJOB_STORE", "redis://localhost")
    if len(sys.argv) == 1:
        await Node(store, jobs=[hello], workers=5).run()
        return
    async with Node(store, jobs=[hello], workers=0) as node:
        instances = await node.schedule_many(hello.call(number) for number in range(int(sys.argv[1])))
        results = [await instance.result() for instance in instances]
        print(f"{len(results)} results, from {results[0]!r} to {results[-1]!r}")


if __name__ == "__main__":
    asyncio.run(main())
