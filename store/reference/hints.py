"""Hints, and the calls that wait for them: `next_hints`, `watch_final` and `watch_changes`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from peerjob.model.record import MAX_BATCH_BYTES, Hint, Record, check_batch
from peerjob.model.state import State

from .state import to_record
from .transaction import ReferenceTransaction

T = TypeVar("T")


def take_hints(transaction: ReferenceTransaction, incarnation: str) -> list[Hint]:
    """The hints that an incarnation has not read yet."""
    node = transaction.state.nodes.get(incarnation)
    if node is None:
        return []
    hints, node.hints = node.hints, []
    return hints


def watch_final(transaction: ReferenceTransaction, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
    """Register for the end of instances. Final ones answer with their records, as far as one reply takes them."""
    check_batch(len(ids))
    answers: list[Record | State | None] = []
    bytes_left = MAX_BATCH_BYTES
    for id in ids:
        instance = transaction.state.instances.get(id)
        if instance is None:
            answers.append(None)
        elif not instance.state.is_final:
            transaction.state.watchers.setdefault(id, set()).add(incarnation)
            answers.append(instance.state)
        else:
            answers.append(to_record(instance) if bytes_left > 0 else instance.state)
            bytes_left -= len(instance.spec) + len(instance.result or b"") + len(instance.error or b"")
    return answers


def watch_changes(transaction: ReferenceTransaction, incarnation: str, ttl: float) -> None:
    """Hint every change to an incarnation for a time."""
    node = transaction.node(incarnation)
    if node is not None:
        node.hears_changes_until_us = transaction.now_us + round(ttl * 1_000_000)


class WaitingCalls:
    """The calls that wait, in any thread and event loop. A command that leaves a hint wakes all of them."""

    def __init__(self) -> None:
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    async def until(self, look: Callable[[], T], timeout: float) -> T:
        """What `look` finds, as soon as that is true; after `timeout` seconds, what it finds then."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                while not (answer := look()):
                    await waiter[1].wait()
                    waiter[1].clear()
                return answer
        except TimeoutError:
            return look()
        finally:
            self._waiting.discard(waiter)

    def ring(self) -> None:
        """Let all waiting calls look again."""
        for loop, event in list(self._waiting):
            # the task of a closed event loop is gone
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)
