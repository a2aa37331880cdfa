"""The calls of threads without an event loop, over a `KeyValue` that blocks its thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from peerjob.model.errors import PeerjobError
from peerjob.model.record import Enqueued, NewInstance, Record
from peerjob.store.direct import run_unsuspended

from .queue.enqueue import EnqueueCommands
from .queue.reading import ReadCommands
from .write.context import KVContext

KEPT_COMMANDS = 16
"""At most this many commands are kept while no thread uses them."""


class _ThreadCommands(EnqueueCommands, ReadCommands):
    """The commands of one thread at a time, with a context of their own, as if the thread were another process."""

    def tell_doubt(self, main: KVContext) -> None:
        """Leave the recount of the counters to the event loop."""
        counts = self._context.counts
        if counts.in_doubt:
            counts.in_doubt, main.counts.in_doubt = False, True


class KVDirectCalls:
    """See `DirectCalls`."""

    def __init__(self, make_context: Callable[[], KVContext], main: KVContext, retry_for: float) -> None:
        self.retry_for = retry_for
        self._make_context = make_context
        self._main = main
        self._free: list[_ThreadCommands] = []

    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        with self._commands() as commands:
            # one by one: several requests of one call would need tasks of an event loop
            return [
                answer for instance in instances for answer in run_unsuspended(commands.enqueue([instance], node=node))
            ]

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        with self._commands() as commands:
            return run_unsuspended(commands.get(ids))

    @contextmanager
    def _commands(self) -> Generator[_ThreadCommands]:
        try:
            commands = self._free.pop()  # other threads take some at the same time
        except IndexError:
            commands = _ThreadCommands(self._make_context())
        is_whole = False
        try:
            yield commands
            is_whole = True
        except PeerjobError:
            is_whole = True
            raise
        finally:
            commands.tell_doubt(self._main)
            if is_whole and len(self._free) < KEPT_COMMANDS:  # else an interrupt can have left something half done
                self._free.append(commands)
