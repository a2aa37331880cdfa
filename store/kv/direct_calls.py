"""The calls of threads without an event loop, over a `KeyValue` that blocks its thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peerjob.model.record import Enqueued, NewInstance
from peerjob.store.direct import run_unsuspended

from .queue.enqueue import EnqueueCommands
from .write.context import KVContext

KEPT_CONTEXTS = 16
"""At most this many contexts are kept while no thread uses them."""


class KVDirectCalls:
    """See `DirectCalls`. Each thread with a call under way has a context of its own, as if it were another process."""

    def __init__(self, make_context: Callable[[], KVContext], main: KVContext) -> None:
        self._make_context = make_context
        self._main = main
        self._free: list[KVContext] = []

    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        try:
            context = self._free.pop()  # other threads take contexts at the same time
        except IndexError:
            context = self._make_context()
        commands = EnqueueCommands(context)
        try:
            # one by one: several requests of one call would need tasks of an event loop
            return [
                answer for instance in instances for answer in run_unsuspended(commands.enqueue([instance], node=node))
            ]
        finally:
            if context.counts.in_doubt:  # the event loop has the recount
                context.counts.in_doubt, self._main.counts.in_doubt = False, True
            if len(self._free) < KEPT_CONTEXTS:
                self._free.append(context)
