"""Children that a test forks."""

import faulthandler
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from .waiting import PATIENCE

_STANDARD_ERROR = 2
"""pytest shows what is written there, also if the child ends by a signal."""


@dataclass(frozen=True, kw_only=True)
class ForkedChild:
    """A child process that runs a function."""

    pid: int

    def exit_code(self) -> int:
        """Wait for its end: 0 if the function raised nothing, 1 if it did, and less than 0 for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork(work: Callable[[], object]) -> ForkedChild:
    """Run a function in a forked child, which SIGALRM ends if it hangs."""
    pid = os.fork()
    if pid == 0:
        _end_with(work)
    return ForkedChild(pid=pid)


def in_child(work: Callable[[], object]) -> int:
    """Run a function in a forked child, wait for its end, and return its exit code."""
    return fork(work).exit_code()


def _end_with(work: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        faulthandler.enable(_STANDARD_ERROR)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(round(PATIENCE))
        work()
        status = 0
    except BaseException:  # noqa: BLE001  # pytest shows what the child prints
        traceback.print_exc()
    finally:
        os._exit(status)
