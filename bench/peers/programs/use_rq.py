"""RQ: one job at a time in each worker process; SimpleWorker does not fork for each job, as its notes on speed say."""

from common import URL, hold, mark, pause, produce
from redis import Redis
from rq import Queue

JOBS = {"mark": mark, "pause": pause, "hold": hold}


def main() -> None:
    queue = Queue(connection=Redis.from_url(URL))

    def many(job: str, numbers: range) -> None:
        queue.enqueue_many([Queue.prepare_data(JOBS[job], (n,), result_ttl=0) for n in numbers])

    # a job without a result to keep is deleted when it has ended
    produce(lambda job, n: queue.enqueue(JOBS[job], n, result_ttl=0), many)


if __name__ == "__main__":
    main()
