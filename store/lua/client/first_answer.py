"""Starts attempts one after the other, without waiting for those that hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from peerjob.model.child_tasks import end

T = TypeVar("T")

NEXT_AFTER = 0.25
"""Seconds until the next attempt starts, too. A machine that is gone answers nothing, and a renewal of a lease has only
seconds to find the server."""


class NoAnswerError(Exception):
    """All attempts failed."""

    def __init__(self, problems: Sequence[Exception]) -> None:
        super().__init__()
        self.problems = problems
        """The error of each attempt."""


async def first_answer(
    attempts: Sequence[Callable[[], Coroutine[Any, Any, T]]],
    *,
    expected: tuple[type[Exception], ...],
    discard: Callable[[T], object] = lambda _: None,
) -> T:
    """Return the result of the first attempt that succeeds; raises NoAnswerError.

    The attempts start in order, each one when one before it has failed with an `expected` error, or when all before it
    have no result after `NEXT_AFTER`. `discard` takes the result of an attempt that also succeeded.
    """

    def dismiss(attempt: asyncio.Task[T]) -> None:
        if not attempt.cancelled() and attempt.exception() is None:
            discard(attempt.result())

    problems = list[Exception]()
    unstarted = list(reversed(attempts))
    running = set[asyncio.Task[T]]()
    last: asyncio.Task[T] | None = None
    try:
        while unstarted or running:
            if unstarted:
                running.add(asyncio.create_task(unstarted.pop()(), name="peerjob-attempt"))
            ended, _ = await asyncio.wait(
                running, timeout=NEXT_AFTER if unstarted else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in ended:
                running.discard(attempt)
                last = attempt
                try:
                    return attempt.result()
                except expected as error:
                    problems.append(error)
    finally:
        for attempt in running:
            attempt.add_done_callback(dismiss)  # also if the caller is cancelled again during the wait below
        try:
            await end(running)
        except asyncio.CancelledError:
            if last is not None:
                dismiss(last)
            raise
    raise NoAnswerError(problems)
