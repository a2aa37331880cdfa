"""Signals that an event loop handles, in this process and not in its forked children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable

_handled: set[int] = set()


@contextlib.contextmanager
def handled(numbers: Iterable[int], call: Callable[[int], object]) -> Generator[None]:
    """Call a function on the running event loop for each of these signals, until the `with` block ends.

    A child that is forked meanwhile, for example by `multiprocessing` in a job, gets the default handlers back. It
    would pass its signals to the event loop of its parent, and ignore them itself.
    """
    loop, added = asyncio.get_running_loop(), list[int]()
    try:
        for number in numbers:
            loop.add_signal_handler(number, call, number)
            added.append(number)
            _handled.add(number)
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
            _handled.discard(number)


class _Forking(threading.local):
    mask: set[int] | None = None
    """The signals that this thread blocked before its fork; None if no fork is under way."""


_forking = _Forking()


def _block() -> None:
    # A signal to the child can arrive before the child has its own handlers.
    if _handled:
        _forking.mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, _handled))


def _unblock() -> None:
    mask, _forking.mask = _forking.mask, None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _restore() -> None:
    if _handled:
        # Python writes the number of each signal into a socket that the event loop of the parent reads.
        signal.set_wakeup_fd(-1)
        for number in _handled:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _handled.clear()
    _unblock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_restore)
