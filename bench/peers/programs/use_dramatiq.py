"""dramatiq: threads, and the Redis broker. It keeps nothing of a job that has ended; results are a middleware."""

import dramatiq
from common import URL, hold, mark, pause, produce
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=URL))

JOBS = {
    "mark": dramatiq.actor(mark),
    "pause": dramatiq.actor(pause),
    # its time limit is 10 minutes by default
    "hold": dramatiq.actor(hold),
}

if __name__ == "__main__":
    produce(lambda job, n: JOBS[job].send(n))
