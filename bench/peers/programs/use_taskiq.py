"""taskiq: an event loop, and the Redis streams of taskiq-redis, which acknowledge. It keeps no results here."""

import uvloop
from common import URL, hold_async, mark, pause_async, produce_async
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(url=URL).with_serializer(ORJSONSerializer())


@broker.task("mark")
async def run_mark(n: int) -> None:
    mark(n)


@broker.task("pause")
async def run_pause(n: int) -> None:
    await pause_async(n)


@broker.task("hold")
async def run_hold(n: int) -> None:
    await hold_async(n)


JOBS = {"mark": run_mark, "pause": run_pause, "hold": run_hold}


async def main() -> None:
    await broker.startup()
    await produce_async(lambda job, n: JOBS[job].kiq(n))


if __name__ == "__main__":
    uvloop.run(main())
