"""How much processor time something takes."""

import time
from collections.abc import Callable


def least_seconds(work: Callable[[], object], times: int = 5) -> float:
    """The least processor time of this thread in which the work was done: garbage is collected in any one of them."""

    def once() -> float:
        begin = time.thread_time()
        work()
        return time.thread_time() - begin

    return min(once() for _ in range(times))
