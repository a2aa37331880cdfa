"""huey: threads, and a Redis list that blocks until a task is there. It keeps no results here."""

from common import URL, hold, mark, pause, produce
from huey import RedisHuey

huey = RedisHuey("peers", url=URL, results=False)

JOBS = {
    "mark": huey.task(name="mark")(mark),
    "pause": huey.task(name="pause")(pause),
    "hold": huey.task(name="hold")(hold),
}

if __name__ == "__main__":
    produce(lambda job, n: JOBS[job](n))
