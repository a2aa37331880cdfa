"""Celery: the prefork pool, with what its guide on optimizing names for many short tasks. It keeps no results here."""

from celery import Celery
from common import URL, hold, mark, pause, produce

app = Celery("peers", broker=URL)
app.conf.update(
    task_ignore_result=True,
    # its guide: 64 or 128 for many short tasks
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)

JOBS = {
    "mark": app.task(mark, name="mark"),
    "pause": app.task(pause, name="pause"),
    "hold": app.task(hold, name="hold"),
}

if __name__ == "__main__":
    produce(lambda job, n: JOBS[job].delay(n))
