"""Children that a job forks have the default handlers of signals, and the node does not hear their signals."""

import asyncio
import multiprocessing
import os
import signal
import time

import pytest

from peerjob import Job, Node
from support.waiting import PATIENCE, until


def end_a_child() -> int | None:
    """What the exit of a pool of multiprocessing does with its processes."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(10 * PATIENCE,))
    child.start()
    try:
        child.terminate()
        child.join(PATIENCE)
        return child.exitcode
    finally:
        child.kill()


END_A_CHILD = Job("end-a-child", end_a_child)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_signal_to_a_child_of_a_job_does_not_stop_the_node() -> None:
    node = Node(jobs=[END_A_CHILD])
    running = asyncio.create_task(node.run())
    await until(lambda: node.running)
    assert await (await node.schedule(END_A_CHILD)).result(timeout=2 * PATIENCE) == -signal.SIGTERM
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await running
